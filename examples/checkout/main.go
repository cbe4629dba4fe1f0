// SPDX-License-Identifier: Apache-2.0

// Command checkout is the sample service that improvements are tried on: a product list whose answer time truly depends on
// its settings, which it reads from the files of a mounted ConfigMap and follows while it runs.
//
//	checkout [-listen :8080] [-settings /etc/checkout]
//	checkout load -url http://checkout/products [-rate 20] [-duration 10s]
//	checkout smoke -url http://checkout/products [-rate 20] [-duration 5s] [-max-p50 0] [-max-p99 0] [-results /dev/termination-log]
//
// It answers /products?category=N, /settings (what is in effect, as JSON), /healthz and /metrics (Prometheus).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// pollInterval is how soon a changed settings file is seen: kubelet swaps a symbolic link, which file notifications miss.
const pollInterval = time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "checkout:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if len(args) > 0 && args[0] == "load" {
		return load(ctx, args[1:])
	}
	if len(args) > 0 && args[0] == "smoke" {
		return smoke(ctx, args[1:])
	}
	return serve(ctx, args)
}

func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("checkout", flag.ExitOnError)
	listen := flags.String("listen", ":8080", "address to answer on")
	dir := flags.String("settings", "/etc/checkout", "directory of the settings, a file each")
	_ = flags.Parse(args) // ExitOnError

	metrics := newMetrics()
	settings := newWatcher(*dir, metrics, slog.Default())
	go settings.follow(ctx, pollInterval)
	server := &http.Server{
		Addr:              *listen,
		Handler:           newHandler(newCatalog(slowBackend), settings, metrics),
		ReadHeaderTimeout: 5 * time.Second,
	}
	go func() {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(drain)
	}()
	slog.Info("serving", "address", *listen, "settings", *dir)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
