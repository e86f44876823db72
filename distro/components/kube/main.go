// Command kube is the Kubernetes components of a node in one static program. It
// looks at the name it was started under and hands over to the upstream
// component's own entry point; nothing here changes what that component does.
// One program keeps the image small, and the pages of shared code are in memory
// once. kubectl and what Kubernetes stands on (containerd, kine, etcd) are apart:
// Go runs the initialisers of all that is linked at every start, and with them
// each component would start more than twice as slowly.
package main

import (
	"context"
	"os"
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
)

func main() {
	dispatch.Main(dispatch.Components{
		"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
		"kube-controller-manager": func() int { return cli.Run(controllermanager.NewControllerManagerCommand()) },
		"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
		"kubelet":                 func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
		"kube-proxy":              func() int { return cli.Run(proxy.NewProxyCommand()) },
	}, os.Args)
}
