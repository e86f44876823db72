// Command overlay makes the CNI plugins importable. It reads each plugin's
// sources from the module cache, rewrites `package main` to the plugin's name
// and `func main()` to `func Main()`, writes the result under the directory
// given as its argument and describes it for `go build -overlay` in overlay.json
// there, as packages below cni/. Upstream's logic is untouched. Run it in the
// directory of go.mod.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"slipway/distro/components/laying"
)

const module = "github.com/containernetworking/plugins"

// plugins maps a plugin's directory in the module to its package name.
var plugins = map[string]string{
	"plugins/ipam/host-local": "hostlocal",
	"plugins/main/bridge":     "bridge",
	"plugins/main/loopback":   "loopback",
	"plugins/meta/firewall":   "firewall",
	"plugins/meta/portmap":    "portmap",
}

var (
	packageClause = regexp.MustCompile(`(?m)^package main$`)
	mainFunction  = regexp.MustCompile(`(?m)^func main\(\) \{$`)
)

func main() { laying.Main("overlay", write) }

func write(out string) (map[string]string, error) {
	root, err := laying.ModuleOf(module + "/plugins/main/bridge")
	if err != nil {
		return nil, err
	}
	here, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	replace := map[string]string{}
	for dir, name := range plugins {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			return nil, err
		}
		mains := 0
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			mains += len(mainFunction.FindAll(text, -1))
			text = packageClause.ReplaceAll(text, []byte("package "+name))
			text = mainFunction.ReplaceAll(text, []byte("func Main() {"))
			copied := filepath.Join(out, name, filepath.Base(file))
			if err := laying.WriteFile(copied, text); err != nil {
				return nil, err
			}
			replace[filepath.Join(here, "cni", name, filepath.Base(file))] = copied
		}
		if mains != 1 {
			return nil, fmt.Errorf("%s has %d main functions, expected one: has upstream changed?", dir, mains)
		}
	}
	return replace, nil
}
