// Command foundation is what Kubernetes stands on, in one static program: the
// container runtime (containerd and its client ctr) and the datastore (kine,
// etcd, and what copies it), chosen by the name it is started under.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	containerd "github.com/containerd/containerd/v2/cmd/containerd/command"
	ctr "github.com/containerd/containerd/v2/cmd/ctr/app"
	kine "github.com/k3s-io/kine/pkg/app"
	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/server/v3/etcdmain"

	_ "github.com/containerd/containerd/v2/cmd/containerd/builtins"

	"slipway/distro/components/dispatch"
	"slipway/distro/components/snapshot"
)

func main() {
	dispatch.Main(dispatch.Components{
		"containerd":     func() int { return run("containerd", containerd.App()) },
		"ctr":            func() int { return run("ctr", ctr.New()) },
		"kine":           runKine,
		"etcd":           func() int { etcdmain.Main(os.Args); return 0 },
		"datastore-copy": func() int { return status("datastore-copy", snapshot.Main(os.Args)) },
	}, os.Args)
}

func runKine() int {
	// containerd's package replaces urfave/cli's printer for the whole program;
	// this is the one that kine has by itself.
	cli.VersionPrinter = func(c *cli.Context) {
		fmt.Fprintf(c.App.Writer, "%s version %s\n", c.App.Name, c.App.Version)
	}
	return run("kine", kine.New())
}

func run(name string, app *cli.App) int {
	return status(name, app.Run(os.Args))
}

func status(name string, err error) int {
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}
