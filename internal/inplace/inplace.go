// Package inplace starts programs for which directories of this machine lie somewhere else: where they will lie on another. Only the
// program and its children see it. It takes Linux, and root or user namespaces.
package inplace

// Place says that the directory Dir is to lie at At. Both are absolute; Dir exists, and At need not.
type Place struct {
	Dir, At  string
	ReadOnly bool // nobody can write to it there
}
