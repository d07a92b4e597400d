// Package deploy is what people copy to run attune elsewhere; its tests prove that it works there.
package deploy
