// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/binaries"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/daemon"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/process"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/controlplane"
	"github.com/clusterstacks/cluster-stack-operator/internal/sandbox/simulator/workload"
)

// StartArgs say what the reaper is to start.
type StartArgs struct {
	Binaries      binaries.Set
	APIServerOnly bool
	OwnEtcd       bool // of an API server; otherwise they share one
	CRDs          []string
	Kubernetes    string
	Operator      string
	Releases      string
	Lite          bool
	Without       []string
	AuditGroup    string
}

// Started tells the test where to find what was started.
type Started struct {
	ID         int
	Dir        string
	Kubeconfig string
}

// Reaper is the part that runs in the second process: it starts sandboxes as its own children, so that
// they outlive neither it nor, since it ends with the connection, the test. Exported for net/rpc only.
type Reaper struct {
	ctx context.Context //nolint:containedctx // the life of the connection, which every call belongs to
	dir string
	log logr.Logger

	mu        sync.Mutex
	shared    *shared
	taken     map[int]bool // the numbers of sandboxes that start or run; in the shared block, their addresses
	sandboxes map[int]*running
}

// running is a sandbox with its addresses.
type running struct {
	*sandbox.Sandbox
	giveBack func() error
	programs *programs
}

// programs are those of a sandbox, as its supervisor sees them.
type programs struct {
	mu  sync.Mutex
	all []sandbox.Component
}

func (p *programs) set(all []sandbox.Component) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = all
}

func (p *programs) get() []sandbox.Component {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

// shared is what sandboxes that are an API server only have in common.
type shared struct {
	block *sandbox.Block
	etcd  *controlplane.SharedEtcd
}

// take gives the lowest number that no sandbox has: each is an address, of which a block has 254.
func (r *Reaper) take() (int, error) {
	for id := 1; id <= 254; id++ {
		if !r.taken[id] {
			r.taken[id] = true
			return id, nil
		}
	}
	return 0, errors.New("254 sandboxes run for this test; stop some")
}

func (r *Reaper) folder(id int) string { return filepath.Join(r.dir, strconv.Itoa(id)) }

// discard removes what a sandbox leaves, and then frees its number.
func (r *Reaper) discard(id int) error {
	err := os.RemoveAll(r.folder(id))
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.taken, id)
	return err
}

// Start starts a sandbox and answers when it is ready.
func (r *Reaper) Start(args StartArgs, reply *Started) error {
	r.mu.Lock()
	id, err := r.take()
	r.mu.Unlock()
	if err != nil {
		return err
	}
	started, err := r.start(id, args)
	if err != nil {
		return errors.Join(err, r.discard(id))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes[id] = started
	*reply = Started{ID: id, Dir: r.folder(id), Kubeconfig: started.Kubeconfig()}
	return nil
}

// start starts the sandbox of a number. Workload clusters need a block of their own; API servers share one.
func (r *Reaper) start(id int, args StartArgs) (*running, error) {
	opts := sandbox.Options{
		Dir: r.folder(id), Binaries: args.Binaries, APIServerOnly: args.APIServerOnly,
		Kubernetes: args.Kubernetes, CRDs: args.CRDs, Operator: args.Operator, Releases: args.Releases, Lite: args.Lite, WithoutFeatures: args.Without, AuditGroup: args.AuditGroup,
		Log: r.log.WithValues("sandbox", id),
	}
	programs := &programs{}
	opts.Changed, opts.RestartAtOnce = programs.set, args.OwnEtcd
	var giveBack func() error
	if args.APIServerOnly && !args.OwnEtcd {
		shared, err := r.share(args.Binaries)
		if err != nil {
			return nil, err
		}
		prefix := "/" + strconv.Itoa(id)
		client, err := shared.etcd.ClientKeyPair()
		if err != nil {
			return nil, err
		}
		opts.Block, opts.Host = shared.block, id
		opts.Etcd = &sandbox.Etcd{URL: shared.etcd.URL(), Prefix: prefix, CA: shared.etcd.CA().CertPEM(), Client: client}
		giveBack = func() error { return shared.etcd.Forget(context.WithoutCancel(r.ctx), prefix) }
	} else {
		block, err := sandbox.ReserveBlock(daemon.KeptBlocks()...)
		if err != nil {
			return nil, err
		}
		opts.Block, giveBack = block, block.Close
	}
	s, err := sandbox.Start(r.ctx, opts)
	if err != nil {
		return nil, errors.Join(err, giveBack())
	}
	return &running{s, giveBack, programs}, nil
}

// share starts what API servers have in common, when the first one comes.
func (r *Reaper) share(programs binaries.Set) (*shared, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shared != nil {
		return r.shared, nil
	}
	block, err := sandbox.ReserveBlock(daemon.KeptBlocks()...)
	if err != nil {
		return nil, err
	}
	ip, err := netip.ParseAddr(block.Address(255)) // beyond those that take gives out
	if err != nil {
		return nil, err
	}
	etcd, err := workload.StartSharedEtcd(r.ctx, programs, filepath.Join(r.dir, "etcd"), ip, r.log)
	if err != nil {
		return nil, errors.Join(err, block.Close())
	}
	r.shared = &shared{block, etcd}
	return r.shared, nil
}

// Stop ends a sandbox and removes its folder.
func (r *Reaper) Stop(id int, _ *struct{}) error {
	r.mu.Lock()
	s := r.sandboxes[id]
	delete(r.sandboxes, id)
	r.mu.Unlock()
	if s == nil {
		return fmt.Errorf("there is no sandbox %d", id)
	}
	s.Stop()
	return errors.Join(s.giveBack(), r.discard(id))
}

// Programs tells which programs a sandbox has, and how they are.
func (r *Reaper) Programs(id int, reply *[]sandbox.Component) error {
	r.mu.Lock()
	s := r.sandboxes[id]
	r.mu.Unlock()
	if s == nil {
		return fmt.Errorf("there is no sandbox %d", id)
	}
	*reply = s.programs.get()
	return nil
}

// reap is the main function of the second process. It serves the connection until the test closes it,
// which the kernel does for a test that is killed, and then ends and removes everything.
func reap(conn net.Conn) (err error) {
	work, err := newFolder(os.TempDir())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, work.remove()) }()
	dir := work.path
	if err := os.Setenv(process.Marker, dir); err != nil {
		return err
	}
	ctx, hangUp := context.WithCancel(context.Background()) // the root of this process
	defer hangUp()
	r := &Reaper{
		ctx: ctx, dir: dir, taken: map[int]bool{}, sandboxes: map[int]*running{},
	}
	log, err := os.Create(filepath.Join(dir, "sandbox.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	r.log = logr.FromSlogHandler(slog.NewTextHandler(log, nil))
	// Libraries that log by themselves write to the same place.
	ctrllog.SetLogger(r.log)
	klog.SetLogger(r.log)
	server := rpc.NewServer()
	if err := server.Register(r); err != nil {
		return err
	}
	// Returns after the calls under way have returned; to hang up cancels them.
	server.ServeCodec(jsonrpc.NewServerCodec(&line{Conn: conn, hangUp: hangUp}))

	var wg sync.WaitGroup
	for _, s := range r.sandboxes {
		wg.Go(s.Stop)
	}
	wg.Wait()
	if r.shared != nil {
		stopped, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancel() // nobody wants its data any more
		r.shared.etcd.Stop(stopped)
	}
	if keep := os.Getenv(LogsVariable); keep != "" {
		return copyLogs(filepath.Join(keep, filepath.Base(dir)), dir)
	}
	return nil
}

// copyLogs copies the logs below a folder, with the paths that they have there.
func copyLogs(dst, src string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copied := filepath.Join(dst, rel)
		return errors.Join(os.MkdirAll(filepath.Dir(copied), 0o750), os.WriteFile(copied, raw, 0o600))
	})
}

// line tells when the other side is gone.
type line struct {
	net.Conn
	hangUp context.CancelFunc
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil {
		l.hangUp()
		if !errors.Is(err, io.EOF) {
			err = errors.Join(io.EOF, err)
		}
	}
	return n, err
}
