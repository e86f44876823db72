// Command kube is the Kubernetes components of a node in one static program. It
// looks at the name it was started under and hands over to the upstream
// component's own entry point; nothing here changes what that component does,
// except that kube-apiserver finds its bootstrap objects in an empty datastore.
// One program keeps the image small, and the pages of shared code are in memory
// once. kubectl and what Kubernetes stands on (containerd, kine, etcd) are apart:
// Go runs the initialisers of all that is linked at every start, and with them
// each component would start more than twice as slowly.
package main

import (
	"context"
	"fmt"
	"os"
	"time"
	_ "time/tzdata" // CronJobs name time zones; the image carries no zoneinfo

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"slipway/distro/components/dispatch"
	"slipway/distro/components/prime"
)

// primeVariable names the datastore's endpoint where it is kube-apiserver's to fill.
const primeVariable = "SLIPWAY_PRIME_DATASTORE"

func main() {
	dispatch.Main(dispatch.Components{
		"kube-apiserver":          runAPIServer,
		"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
		"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
		"kubelet":                 func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
		"kube-proxy":              func() int { return cli.Run(proxy.NewProxyCommand()) },
	}, os.Args)
}

// runAPIServer runs the API server, and while it gets ready fills an empty datastore
// with what it would make there as soon as it serves. That it finds something half
// made is no fault: it makes what is missing, and tries again where both did at once.
func runAPIServer() int {
	if endpoint, ok := os.LookupEnv(primeVariable); ok {
		go primeDatastore(endpoint)
	}
	return cli.Run(apiserver.NewAPIServerCommand())
}

// primeDatastore tells of a failure and leaves it at that: the API server makes by
// itself whatever it doesn't find, only much more slowly.
func primeDatastore(endpoint string) {
	begin := time.Now()
	switch count, err := prime.Store(context.Background(), endpoint); {
	case err != nil:
		fmt.Fprintf(os.Stderr, "kube-apiserver: priming the datastore: %v\n", err)
	case count > 0:
		fmt.Fprintf(os.Stderr, "kube-apiserver: primed the datastore with %d objects in %.1f s\n",
			count, time.Since(begin).Seconds())
	}
}
