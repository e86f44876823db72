// Package dispatch starts one of the components that are linked into a program,
// by the name that the program was started under.
package dispatch

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slipway/distro/components/settle"
)

// Components maps a name to an entry point, which returns the exit status.
type Components map[string]func() int

// Main runs the component that args[0] names, or, without the symlinks, the one
// named by args[1], and ends the process with its status.
func Main(components Components, args []string) {
	name := filepath.Base(args[0])
	run, ok := components[name]
	if !ok && len(args) > 1 {
		os.Args = args[1:]
		name = filepath.Base(args[1])
		run, ok = components[name]
	}
	if !ok {
		names := make([]string, 0, len(components))
		for n := range components {
			names = append(names, n)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "%q is no component of this program; start it under one of these names: %s\n",
			name, strings.Join(names, ", "))
		os.Exit(2)
	}
	settle.Begin()
	os.Exit(run())
}
