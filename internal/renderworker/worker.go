// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package renderworker

import (
	"errors"
	"io"
	"log"
	"log/slog"
	"os"
	"strconv"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
	"github.com/clusterstacks/cluster-stack-operator/internal/render"
)

// workerName is what a worker is started as, in place of the name of the program.
const workerName = "render-worker"

// A program that would have to call a function for this could forget to, and its workers would be
// programs that start workers.
func init() {
	if len(os.Args) == 2 && os.Args[0] == workerName {
		run(os.Args[1])
		os.Exit(1) //nolint:forbidigo // the process is a worker, which has no main
	}
}

// run is the life of a worker. It returns only when something has gone wrong.
func run(memory string) {
	in, out := os.Stdin, os.Stdout
	// Whatever prints must not print between the messages, and what Helm warns of quotes values.
	os.Stdout = os.Stderr
	slog.SetDefault(slog.New(slog.DiscardHandler))
	log.SetOutput(io.Discard)

	bytes, err := strconv.ParseInt(memory, 10, 64)
	if err == nil {
		err = confine(bytes)
	}
	var greeting hello
	if err != nil {
		greeting.Problem = err.Error()
	}
	if errors.Join(send(out, greeting), err) != nil {
		return
	}
	w := &worker{in: readAhead(in), out: out, cache: render.NewCache(0), charts: render.NewCharts()}
	for {
		if err := w.converse(); err != nil {
			return
		}
	}
}

// readAhead hands on the messages of in. When it ends, so does the process, whatever it is doing: nobody
// waits for it any more.
func readAhead(in io.Reader) <-chan []byte {
	messages := make(chan []byte)
	go func() {
		for {
			message, err := receive(in)
			if err != nil {
				os.Exit(0) //nolint:forbidigo // nobody waits for what the main goroutine does
			}
			messages <- message
		}
	}()
	return messages
}

type worker struct {
	in     <-chan []byte
	out    io.Writer
	cache  *render.Cache
	charts *render.Charts
}

// converse answers one request.
func (w *worker) converse() error {
	var asked request
	if err := decoding.Unmarshal(<-w.in, &asked); err != nil {
		return err
	}
	in, err := w.complete(asked)
	if err != nil {
		return err
	}
	k := key{}
	if k.Digest, k.Known = w.cache.Key(in); k.Known {
		if err := send(w.out, answer{Key: &k}); err != nil {
			return err
		}
		var d decision
		if err := decoding.Unmarshal(<-w.in, &d); err != nil || !d.Render {
			return err
		}
	}
	rendered, err := w.cache.RenderAnew(in)
	var invalid *render.InvalidError
	switch {
	case err == nil:
		return send(w.out, answer{Result: pack(rendered)})
	case errors.As(err, &invalid):
		return send(w.out, answer{Invalid: invalid})
	default:
		return send(w.out, answer{Invalid: &render.InvalidError{Subject: in.Subject, Reason: err.Error()}})
	}
}

// complete puts the charts into the input, and asks for the ones that the worker does not have.
func (w *worker) complete(asked request) (render.Input, error) {
	named := append([]render.Digest{asked.Chart}, asked.Neighbours...)
	have := map[render.Digest]release.Chart{}
	var lacking []render.Digest
	for _, digest := range named {
		if files, ok := w.charts.Get(digest); ok {
			have[digest] = files
		} else {
			lacking = append(lacking, digest)
		}
	}
	if lacking != nil {
		if err := send(w.out, answer{Lacking: lacking}); err != nil {
			return render.Input{}, err
		}
		var sent charts
		if err := decoding.Unmarshal(<-w.in, &sent); err != nil {
			return render.Input{}, err
		}
		for digest, files := range sent {
			have[digest] = files
			w.charts.Put(digest, files)
		}
	}
	in := asked.Input
	in.Chart = have[asked.Chart]
	for _, digest := range asked.Neighbours {
		in.Neighbours = append(in.Neighbours, have[digest])
	}
	return in, nil
}
