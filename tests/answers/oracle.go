// Shows how Go's client handles responses. Reads them from standard input, each as a line of base64, serves each once
// unchanged, and prints a line with net/http's result: the status and the body in base64, or "error" and the reason.

// The settings that Prometheus is built with, in any folder: without a module, Go may use an old version's settings,
// which accept an empty Content-Length.
//
//go:debug default=go1.26
package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func serve(answer []byte) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go func() {
		defer listener.Close()
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		reader := bufio.NewReader(connection)
		for {
			line, err := reader.ReadString('\n')
			if err != nil || strings.TrimSpace(line) == "" {
				break
			}
		}
		connection.Write(answer)
		connection.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, reader)
	}()
	return "http://" + listener.Addr().String() + "/metrics", nil
}

func ask(answer []byte) string {
	url, err := serve(answer)
	if err != nil {
		return "error " + err.Error()
	}
	client := http.Client{
		Transport:     &http.Transport{DisableCompression: true},
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	response, err := client.Get(url)
	if err != nil {
		return "error " + err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "error " + err.Error()
	}
	return fmt.Sprintf("%d %s", response.StatusCode, base64.StdEncoding.EncodeToString(body))
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		answer, err := base64.StdEncoding.DecodeString(lines.Text())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(strings.ReplaceAll(ask(answer), "\n", " "))
	}
}
