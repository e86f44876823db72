// Command selfsigned makes a certificate as a component does for itself, checks
// that it and its key serve TLS, and prints the algorithm of its key.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"k8s.io/client-go/util/cert"
)

func main() {
	chain, key, err := cert.GenerateSelfSignedCertKey("loopback", nil, nil)
	if err != nil {
		fail(err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		fail(err)
	}
	authority, err := x509.ParseCertificate(pair.Certificate[1])
	if err != nil {
		fail(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(authority)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "loopback", Roots: roots}); err != nil {
		fail(err)
	}
	fmt.Println(pair.Leaf.PublicKeyAlgorithm, authority.PublicKeyAlgorithm)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
