// Command barekong is the baseline of attune-run's start-up: a kong program that does nothing else.
package main

import (
	"fmt"

	"github.com/alecthomas/kong"
)

func main() {
	var cli struct {
		Packs   []string `help:"Directories."`
		Version struct{} `cmd:"" help:"Show the version."`
		Run     struct {
			Target string   `arg:""`
			Args   []string `arg:"" optional:""`
		} `cmd:"" help:"Run."`
	}
	kong.Parse(&cli)
	fmt.Println("barekong devel")
}
