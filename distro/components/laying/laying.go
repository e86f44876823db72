// Package laying is what the writers of overlays for `go build` share: commands
// that are run in the directory of go.mod, with a directory to write to as their
// only argument, and leave a description of the overlay there.
package laying

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Main runs write with the absolute path of the directory that the command was
// given. What it returns are the files that stand in for others, by the paths
// of those; they are described in overlay.json.
func Main(name string, write func(out string) (map[string]string, error)) {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: %s DIR\n", name)
		os.Exit(2)
	}
	if err := Lay(os.Args[1], write); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Lay is Main for a directory.
func Lay(out string, write func(out string) (map[string]string, error)) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	replace, err := write(out)
	if err != nil {
		return err
	}
	description, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "overlay.json"), description, 0o644)
}

// ModuleOf is the directory of the module that a package is in. Asking for a
// package rather than for the module fetches it if it isn't there, and holds to
// go.sum.
func ModuleOf(pkg string) (string, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Module.Dir}}", pkg).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return "", fmt.Errorf("finding %s: %s", pkg, failed.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

// WriteFile writes a file and the directories above it.
func WriteFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
