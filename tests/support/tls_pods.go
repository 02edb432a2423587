// Pods of Go's net/http with TLS, one for each argument KIND=ADDRESS=NAME. NAME.crt and NAME.key are in the folder that
// the first argument names. /metrics has a sample with the names that the client's TLS and certificate have, and /long
// has 300,000 bytes of samples, sent in portions.
//
// The kinds: `tls`; `required` and `requested`, for a certificate of a client that ca.crt signed; `old`, with at most
// TLS 1.1; `plain`, without TLS.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func page(writer http.ResponseWriter, request *http.Request) {
	client, name, alpn := "", "", ""
	if request.TLS != nil {
		name, alpn = request.TLS.ServerName, request.TLS.NegotiatedProtocol
		if len(request.TLS.PeerCertificates) > 0 {
			client = request.TLS.PeerCertificates[0].Subject.CommonName
		}
	}
	writer.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintf(writer, "pod_up{protocol=%q,alpn=%q,sni=%q,client_certificate=%q,over=%q} 1\n",
		request.Proto, alpn, name, client, scheme(request))
	fmt.Fprintf(writer, "# %s\n", strings.Repeat("x", 16384))
}

func longPage(writer http.ResponseWriter, request *http.Request) {
	var page strings.Builder
	for line := 0; page.Len() < 300_000; line++ {
		fmt.Fprintf(&page, "metric_of_a_long_page{line=\"%d\"} 1\n", line)
	}
	for rest := page.String()[:300_000]; rest != ""; {
		portion := min(len(rest), 4096)
		io.WriteString(writer, rest[:portion])
		writer.(http.Flusher).Flush()
		rest = rest[portion:]
		time.Sleep(50 * time.Microsecond) // the time to compress the next one
	}
}

func scheme(request *http.Request) string {
	if request.TLS == nil {
		return "http"
	}
	return "https"
}

func config(folder, kind, name string) *tls.Config {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(folder, name+".crt"), filepath.Join(folder, name+".key"))
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}}
	if kind == "required" || kind == "requested" {
		ca, err := os.ReadFile(filepath.Join(folder, "ca.crt"))
		if err != nil {
			log.Fatal(err)
		}
		config.ClientCAs = x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(ca)
		config.ClientAuth = tls.VerifyClientCertIfGiven
		if kind == "required" {
			config.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	if kind == "old" {
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	}
	return config
}

func main() {
	for _, pod := range os.Args[2:] {
		parts := strings.Split(pod, "=")
		kind, address, name := parts[0], parts[1], parts[2]
		listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			log.Fatal(err)
		}
		pages := http.NewServeMux()
		pages.HandleFunc("/", page)
		pages.HandleFunc("/long", longPage)
		server := &http.Server{Handler: pages, ErrorLog: log.New(io.Discard, "", 0)}
		if kind == "plain" {
			go server.Serve(listener)
		} else {
			server.TLSConfig = config(os.Args[1], kind, name)
			go server.ServeTLS(listener, "", "")
		}
		fmt.Fprintf(os.Stderr, "listening on port %d\n", listener.Addr().(*net.TCPAddr).Port)
	}
	select {}
}
