// Command overlay makes the CNI plugins importable. It reads each plugin's
// sources from the module cache, rewrites `package main` to the plugin's name
// and `func main()` to `func Main()`, writes the result under the directory
// given as its argument and describes it for `go build -overlay` in overlay.json
// there, as packages below cni/. Upstream's logic is untouched. Run it in the
// directory of go.mod.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: overlay DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "overlay: %v\n", err)
		os.Exit(1)
	}
}

func write(out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	root, err := moduleDir()
	if err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	replace := map[string]string{}
	for dir, name := range plugins {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil {
			return err
		}
		mains := 0
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			mains += len(mainFunction.FindAll(text, -1))
			text = packageClause.ReplaceAll(text, []byte("package "+name))
			text = mainFunction.ReplaceAll(text, []byte("func Main() {"))
			copied := filepath.Join(out, name, filepath.Base(file))
			if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(copied, text, 0o644); err != nil {
				return err
			}
			replace[filepath.Join(here, "cni", name, filepath.Base(file))] = copied
		}
		if mains != 1 {
			return fmt.Errorf("%s has %d main functions, expected one: has upstream changed?", dir, mains)
		}
	}
	description, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "overlay.json"), description, 0o644)
}

// moduleDir is where the module's sources are. Asking for a package rather than
// for the module fetches them if they aren't there, and holds to go.sum.
func moduleDir() (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Module.Dir}}", module+"/plugins/main/bridge").Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("finding %s: %s", module, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}
