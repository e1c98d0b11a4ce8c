// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
)

// Options are the settings of a sandbox. What is not set is as it was the last time, in a sandbox that was ready once, or
// else the default.
type Options struct {
	// CRDs are files and folders with CustomResourceDefinitions to install besides the default ones, and besides those
	// that were given the last times.
	CRDs []string `json:"crds,omitempty"`
	// Kubernetes is the minor that the management cluster behaves like; by default the newest.
	Kubernetes string `json:"kubernetes,omitempty"`
	// Operator is the path of cluster-stack-operator, or NoOperator; by default it is the one beside our executable, if
	// it is there.
	Operator string `json:"operator,omitempty"`
	// Releases is the folder that the operator reads releases from; by default one in the state folder.
	Releases string `json:"releases,omitempty"`
	// Registry runs an OCI registry.
	Registry *bool `json:"registry,omitempty"`
	// Lite makes workload clusters lite that do not say otherwise themselves.
	Lite *bool `json:"lite,omitempty"`
	// ChartMirrors are where the operator finds charts that releases do not bring along, as its flag takes them.
	ChartMirrors []string `json:"chartMirrors,omitempty"`
	// Bound ends the sandbox with the process that starts it, however that ends. Then all that it made is removed, and
	// the folder of releases.
	Bound bool `json:"bound,omitempty"`
}

// NoOperator is the setting of a sandbox without an operator.
const NoOperator = "none"

// over gives the settings of a sandbox that had others before.
func (o Options) over(before Options) Options {
	return Options{
		CRDs:       slices.Compact(slices.Sorted(slices.Values(slices.Concat(before.CRDs, o.CRDs)))),
		Kubernetes: cmp.Or(o.Kubernetes, before.Kubernetes),
		Operator:   cmp.Or(o.Operator, before.Operator),
		Releases:   cmp.Or(o.Releases, before.Releases),
		Registry:   cmp.Or(o.Registry, before.Registry),
		Lite:       cmp.Or(o.Lite, before.Lite),

		// For what these are, the process is there that gives them, or there is no sandbox.
		ChartMirrors: o.ChartMirrors,
		Bound:        o.Bound,
	}
}

// task is what a daemon is to do. What depends on the working folder and the environment of the user was found out by
// who starts the daemon.
type task struct {
	Name string `json:"name"`
	// Settings are for the user to look at, and for the next start.
	Settings Options `json:"settings"`
	// Block is the block of addresses that the sandbox had before, empty for a new one.
	Block string `json:"block,omitempty"`
	// CRDs are those to install now.
	CRDs     []string     `json:"crds,omitempty"`
	Operator string       `json:"operator,omitempty"`
	Releases string       `json:"releases"`
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
	started := false
	if t.Settings.Bound {
		// Who started us holds the other end of the pipe, and nobody else does.
		alive, abandon := context.WithCancel(ctx)
		defer abandon()
		gone := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, stdin)
			close(gone)
			abandon()
		}()
		ctx = alive
		defer func() {
			abandoned := false
			select {
			case <-gone:
				abandoned = true
			default:
			}
			// Why it did not start, the logs say, if there is anybody to look.
			if started || abandoned {
				_ = errors.Join(remove(dir), os.RemoveAll(t.Releases)) // nobody is there to be told
			}
		}()
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
	started = true
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
		*s = State{
			Name: d.Name, Phase: PhaseStarting, PID: os.Getpid(), StartTicks: ticks, Since: time.Now(), Versions: binaries.Pinned(),
			Settings: d.Settings, Releases: d.Releases, Emulated: d.Settings.Kubernetes,
		}
		if d.Block != "" {
			s.Lasting, s.Addresses = true, d.Block+addressesOfABlock
		}
	})
	// Programs that outlive a kill are found by this; see Down.
	if err := os.Setenv(process.Marker, d.dir); err != nil {
		return nil, err
	}
	block, err := d.reserve() // held until this process ends
	if err != nil {
		return nil, err
	}
	d.update(func(s *State) { s.Addresses = block.Prefix + addressesOfABlock })
	s, err := sandbox.Start(ctx, sandbox.Options{
		Dir: d.dir, Block: block, Binaries: d.Programs,
		Kubernetes: d.Settings.Kubernetes, CRDs: d.CRDs, Operator: d.Operator, Releases: d.Releases,
		Registry: ptr.Deref(d.Settings.Registry, false), Lite: ptr.Deref(d.Settings.Lite, false),
		ChartMirrors: d.Settings.ChartMirrors,

		Log:      d.log,
		Progress: func(e sandbox.Event) { d.tell(message{Event: &e}) },
		Changed:  func(c []sandbox.Component) { d.update(func(s *State) { s.Components = c }) },
	})
	if err != nil {
		return nil, err
	}
	d.update(func(st *State) {
		st.Phase, st.Endpoint, st.Kubeconfig, st.Registry, st.Lasting = PhaseReady, s.Endpoint(), s.Kubeconfig(), s.Registry(), true
	})
	return s, nil
}

// reserve takes the addresses that the sandbox had before: those of its clusters are among them.
func (d *daemon) reserve() (*sandbox.Block, error) {
	if d.Block != "" {
		return sandbox.ReserveBlockAgain(d.Block)
	}
	return sandbox.ReserveBlock(KeptBlocks()...)
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
