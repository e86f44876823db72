// Command cni is the CNI plugins of a node in one static program, chosen by the
// name it is started under. Upstream's plugins are `package main`, which Go will
// not import: the overlay that `go run ./overlay DIR` writes lays each beside this
// file as a package of its own with an exported Main, and changes nothing else.
// Build it with `go build -overlay DIR/overlay.json ./cni`.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"slipway/distro/components/cni/bridge"
	"slipway/distro/components/cni/firewall"
	"slipway/distro/components/cni/hostlocal"
	"slipway/distro/components/cni/loopback"
	"slipway/distro/components/cni/portmap"
)

func main() {
	plugins := map[string]func(){
		"bridge":     bridge.Main,
		"firewall":   firewall.Main,
		"host-local": hostlocal.Main,
		"loopback":   loopback.Main,
		"portmap":    portmap.Main,
	}
	name := filepath.Base(os.Args[0])
	run, ok := plugins[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "cni: %q is no plugin of this program\n", name)
		os.Exit(2)
	}
	run()
}
