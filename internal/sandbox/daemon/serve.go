// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// Options describe the sandbox that a daemon holds.
type Options struct {
	Name string `json:"name"`
	// CRDs are files and folders with CustomResourceDefinitions to install besides the default ones.
	CRDs []string `json:"crds,omitempty"`
	// Kubernetes is the minor that the management cluster behaves like; empty means the newest.
	Kubernetes string `json:"kubernetes,omitempty"`
	// Operator is the path of cluster-stack-operator; empty runs none.
	Operator string `json:"operator,omitempty"`
	// Releases is the folder that the operator reads releases from; by default one in the state folder.
	Releases string `json:"releases,omitempty"`
	// Lite makes workload clusters lite that do not say otherwise themselves.
	Lite bool `json:"lite,omitempty"`
}

// task is what a daemon is to do.
type task struct {
	Options
	// Programs were found by who starts the daemon: its working folder and environment are the user's.
	Programs binaries.Set `json:"programs"`
}

// message is what a daemon tells the process that started it, one JSON object a line.
type message struct {
	Event *sandbox.Event `json:"event,omitempty"`
	// Phase is set once, in the last message: Ready or Failed.
	Phase string `json:"phase,omitempty"`
	Error string `json:"error,omitempty"`
}

// What the daemon inherits besides its standard descriptors.
const (
	progressDescriptor = 3
	lockDescriptor     = 4
)

// Serve is the main function of the daemon: it reads its task from stdin, starts the sandbox, and holds it
// until ctx ends. Only Up starts it. What it prints goes to the log of the daemon.
func Serve(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	for fd, kind := range map[int]uint32{progressDescriptor: unix.S_IFIFO, lockDescriptor: unix.S_IFSOCK} {
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != kind {
			return errors.New("this command is for csctl itself; use csctl sandbox up")
		}
	}
	// The programs of the sandbox must not inherit them.
	unix.CloseOnExec(progressDescriptor)
	unix.CloseOnExec(lockDescriptor)
	progress := os.NewFile(progressDescriptor, "progress")
	defer progress.Close()

	var t task
	if err := json.NewDecoder(stdin).Decode(&t); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	dir, err := Dir(t.Name)
	if err != nil {
		return err
	}

	d := &daemon{task: t, dir: dir, progress: json.NewEncoder(progress), log: logr.FromSlogHandler(slog.NewTextHandler(stdout, nil))}
	// Libraries that log by themselves write to the same place.
	ctrllog.SetLogger(d.log)
	klog.SetLogger(d.log)
	d.log.Info("Starting", "name", t.Name, "dir", dir)
	s, err := d.start(ctx)
	if err != nil {
		d.log.Error(err, "Sandbox did not come up")
		d.update(func(s *State) { s.Phase, s.Error, s.Components = PhaseFailed, err.Error(), nil })
		d.tell(message{Phase: PhaseFailed, Error: err.Error()})
		return err
	}
	d.log.Info("Ready")
	d.tell(message{Phase: PhaseReady})
	_ = progress.Close() // whoever waited has been told

	<-ctx.Done()
	d.log.Info("Stopping")
	s.Stop()
	return nil
}

type daemon struct {
	task
	dir      string
	progress *json.Encoder
	log      logr.Logger

	mu    sync.Mutex // guards state, its file and progress
	state State
}

func (d *daemon) start(ctx context.Context) (*sandbox.Sandbox, error) {
	ticks, err := startTicks(os.Getpid())
	if err != nil {
		return nil, err
	}
	d.update(func(s *State) {
		*s = State{Name: d.Name, Phase: PhaseStarting, PID: os.Getpid(), StartTicks: ticks, Since: time.Now(), Versions: binaries.Pinned()}
	})
	// Programs that outlive a kill are found by this; see Down.
	if err := os.Setenv(process.Marker, d.dir); err != nil {
		return nil, err
	}
	block, err := sandbox.ReserveBlock() // held until this process ends
	if err != nil {
		return nil, err
	}
	s, err := sandbox.Start(ctx, sandbox.Options{
		Dir: d.dir, Block: block, Binaries: d.Programs,
		Kubernetes: d.Kubernetes, CRDs: d.CRDs, Operator: d.Operator, Releases: d.Releases, Lite: d.Lite,
		Log:      d.log,
		Progress: func(e sandbox.Event) { d.tell(message{Event: &e}) },
		Changed:  func(c []sandbox.Component) { d.update(func(s *State) { s.Components = c }) },
	})
	if err != nil {
		return nil, err
	}
	d.update(func(st *State) {
		st.Phase, st.Addresses, st.Endpoint, st.Kubeconfig = PhaseReady, block.Prefix+".0.0/16", s.Endpoint(), s.Kubeconfig()
		st.Releases, st.Emulated = d.Releases, d.Kubernetes
	})
	return s, nil
}

// update changes the state and writes it down. The sandbox runs on when that fails: it is not worth less
// because status is out of date.
func (d *daemon) update(change func(*State)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.state)
	if err := d.state.write(d.dir); err != nil {
		d.log.Error(err, "State was not written")
	}
}

// tell ignores that nobody listens: who started us may have been killed.
func (d *daemon) tell(m message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.progress.Encode(m)
}
