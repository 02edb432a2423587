// An exporter with a page as long as kube-state-metrics's: 2 MiB of text, 240 KiB on the network. As there, the text
// is kept in memory, and compressed for every scrape. It listens on the address in the first argument.
package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"log"
	"math/rand"
	"net/http"
	"os"
	"strings"
	"sync"
)

const textBytes = 2 << 20

// page makes the text: two samples for each pod, with names that compress about as well as those of a cluster.
func page() []byte {
	random := rand.New(rand.NewSource(1))
	var text bytes.Buffer
	text.WriteString("# HELP kube_pod_status_ready Describes whether the pod is ready to serve requests.\n")
	text.WriteString("# TYPE kube_pod_status_ready gauge\n")
	for text.Len() < textBytes {
		pod := fmt.Sprintf("service-%d-%08x-%05x", random.Intn(300), random.Uint32(), random.Intn(1<<20))
		uid := fmt.Sprintf("%08x-5b1e-4c6f-9a57-%012x", random.Uint32(), random.Int63n(1<<48))
		namespace := random.Intn(40)
		for _, condition := range []string{"true", "false"} {
			fmt.Fprintf(&text, "kube_pod_status_ready{namespace=\"team-%d\",pod=%q,uid=%q,condition=%q} %d\n",
				namespace, pod, uid, condition, random.Intn(2))
		}
	}
	return text.Bytes()
}

func main() {
	text := page()
	compressors := sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
	http.HandleFunc("/metrics", func(writer http.ResponseWriter, request *http.Request) {
		writer.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if !strings.Contains(request.Header.Get("Accept-Encoding"), "gzip") {
			writer.Write(text)
			return
		}
		writer.Header().Set("Content-Encoding", "gzip")
		compressor := compressors.Get().(*gzip.Writer)
		defer compressors.Put(compressor)
		compressor.Reset(writer)
		defer compressor.Close()
		compressor.Write(text)
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
