// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rollout

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/clusterstacks/cluster-stack-operator/internal/release"
)

var update = flag.Bool("update", false, "write the transcripts of the stories anew")

// TestStories tells whole rollouts. A file of testdata/stories is one story: text, lines with "> " that say
// what happens, and below each what Next makes of it until it waits or rests.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/stories/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories found: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			w := &world{out: &got, fate: map[string]string{}, inCluster: map[string]string{}}
			for line := range strings.Lines(string(want)) {
				if strings.HasPrefix(line, "    ") {
					continue // told anew
				}
				got.WriteString(line)
				if event, is := strings.CutPrefix(strings.TrimSpace(line), "> "); is {
					if err := w.happen(strings.Fields(event)); err != nil {
						t.Fatalf("%s: %v", strings.TrimSpace(line), err)
					}
				}
			}
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("the story goes another way (-written +told):\n%s", diff)
			}
		})
	}
}

// storyReleases are the releases that stories speak of.
var storyReleases = map[string]lists{
	"docker-starter-1-35-v1": plain,
	"docker-starter-1-35-v2": {
		release.AfterControlPlaneInitialized: {apply("cni"), apply("csi")},
		release.BeforeClusterUpgrade:         {apply("cni"), apply("csi")},
	},
	// Its list for upgrades names only what changed.
	"docker-starter-1-35-v3": {
		release.AfterControlPlaneInitialized: {apply("cni"), apply("metrics-server")},
		release.BeforeClusterUpgrade:         {apply("metrics-server")},
	},
	"docker-starter-1-36-v1": {
		release.AfterControlPlaneInitialized: {healthy(apply("cni")), apply("metrics-server")},
		release.BeforeClusterUpgrade:         {healthy(apply("cni")), apply("metrics-server")},
	},
	"docker-starter-1-36-v2": plain,
	// It takes an addon out of clusters that are upgraded to it.
	"docker-starter-1-36-v3": {
		release.AfterControlPlaneInitialized: {apply("cni")},
		release.BeforeClusterUpgrade:         {remove("metrics-server"), after(apply("cni"))},
	},
}

func init() {
	// They have something to do at each point, and take an addon out on the way.
	for _, class := range []string{"docker-starter-1-36-v4", "docker-starter-1-36-v5"} {
		storyReleases[class] = lists{
			release.AfterControlPlaneInitialized: {apply("cni"), apply("csi"), apply("metrics-server")},
			release.BeforeClusterUpgrade:         {apply("cni")},
			release.BeforeControlPlaneUpgrade:    {apply("guard")},
			release.AfterControlPlaneUpgrade:     {apply("csi"), remove("guard")},
			release.BeforeWorkersUpgrade:         {apply("drainer")},
			release.AfterWorkersUpgrade:          {remove("drainer")},
			release.AfterClusterUpgrade:          {remove("metrics-server")},
			release.BeforeClusterDelete:          {remove("csi")},
		}
	}
}

// world is all that is outside of Next in a story: a Cluster, its addons, and the storage of the record.
type world struct {
	out     *bytes.Buffer
	cluster Cluster
	class   string
	digest  string
	record  string
	ask     string
	lost    bool
	off     []string
	// fate of a stage: "fails" or "waits".
	fate map[string]string
	// inCluster has the class that each addon was last applied from.
	inCluster map[string]string
}

func (w *world) happen(event []string) error {
	switch event[0] {
	case "cluster": // cluster uses <class> at <version>
		if w.cluster.UID == "" {
			w.cluster.UID = "uid"
		}
		w.class, w.cluster.Version, w.digest = event[2], event[4], "sha256:first"
		_, w.cluster.Ours = storyReleases[w.class]
	case "initialized":
		w.cluster.Initialized, w.cluster.ControlPlane, w.cluster.Workers = true, at(w.cluster.Version), at(w.cluster.Version)
	case "upgraded": // by Cluster API
		w.cluster.ControlPlane, w.cluster.Workers = at(w.cluster.Version), at(w.cluster.Version)
	case "control-plane": // control-plane [<version> ...] [then <version> ...]
		w.cluster.ControlPlane = machines(event[1:])
	case "workers":
		w.cluster.Workers = machines(event[1:])
	case "off": // off [<addon> ...]
		w.off = event[1:]
	case "released": // Cluster API goes on with the deletion
		w.cluster.MayGo = true
	case "corrected": // the release has another content under the same name
		w.digest = "sha256:corrected"
	case "stage": // stage <name> fails|waits|works
		w.fate[event[1]] = event[2]
	case "paused":
		w.cluster.Paused = true
	case "resumed":
		w.cluster.Paused = false
	case "deleted":
		w.cluster.Deleting = true
	case "moved": // to another management cluster
		w.cluster.UID = "moved"
	case "inventory": // inventory lost
		w.lost = true
	case "hook": // hook <point> [<from>] <to>
		return w.hook(release.Point(event[1]), event[2:])
	case "restarted", "again":
	default:
		return fmt.Errorf("nobody knows what %q means", event[0])
	}
	return w.reconcile()
}

func machines(words []string) Machines {
	i := slices.Index(words, "then")
	if i < 0 {
		return at(words...)
	}
	return Machines{Versions: words[:i], Plan: words[i+1:]}
}

// hook is what the hook server does: it answers from the record, and asks when it must hold.
func (w *world) hook(point release.Point, versions []string) error {
	record, err := ParseRecord(w.record)
	if err != nil {
		return err
	}
	ask := NewAsk(point, w.cluster.Version, versions[0], versions[len(versions)-1])
	ask.Namespace, ask.Class, ask.Cluster = "stacks", w.class, w.cluster.UID
	if record.Proves(ask) || record.Idle(ask) {
		w.say("hook: go on")
		return nil
	}
	w.say("hook: hold")
	w.ask = ask.String()
	return w.reconcile()
}

// reconcile is what the controller does: it starts from what is stored and moves until there is nothing to do.
func (w *world) reconcile() error {
	record, err := ParseRecord(w.record)
	if err != nil {
		return err
	}
	asked, err := ParseAsk(w.ask)
	if err != nil {
		return err
	}
	s := Situation{Cluster: w.cluster, Record: record, Asked: asked, Progress: map[string]Progress{}, InventoryLost: w.lost, Off: w.off}
	for range 50 {
		switch m := Next(s).(type) {
		case Fetch:
			kubernetes := "v" + strings.ReplaceAll(strings.Split(w.class, "-v")[0][len("docker-starter-"):], "-", ".") + ".4"
			s.Target = &Target{Release: Release{Namespace: "stacks", Class: w.class, Digest: w.digest}, Kubernetes: kubernetes, Lists: storyReleases[w.class]}
		case Begin:
			r := m.Record.Rollout
			versions := fmt.Sprintf("%q to %q", r.From, r.To)
			if r.Hop != "" {
				versions = r.Hop
			}
			w.say("begin %s at %s, %s%s%s", r.Class, r.Point, versions, mark(r.Late, ", late"), mark(r.Rebuilt, ", inventory rebuilt"))
			s.Record, s.Progress = m.Record, map[string]Progress{}
			w.save(&s, m.Record)
			w.lost, s.InventoryLost = false, false
		case Apply:
			w.act(&s, "apply", m.Stage, func(p *Progress) *Result { return &p.Work }, "fails")
			if s.Progress[m.Stage.Name].Work == Good {
				w.inCluster[m.Stage.Name] = w.class
			}
		case Delete:
			w.act(&s, "delete", m.Stage, func(p *Progress) *Result { return &p.Work }, "fails")
			delete(w.inCluster, m.Stage.Name)
		case Evaluate:
			w.act(&s, "evaluate", m.Stage, func(p *Progress) *Result {
				if m.Before {
					return &p.Pre
				}
				return &p.Post
			}, "waits")
		case CheckHealth:
			w.act(&s, "check health of", m.Stage, func(p *Progress) *Result { return &p.Health }, "waits")
		case Finish:
			has := m.Record.Applied
			w.say("finish: has %s%s", strings.Join(has.Addons, ", "), mark(len(has.Behind) > 0, "; not yet "+strings.Join(has.Behind, ", ")))
			w.save(&s, m.Record)
			if asked != nil && m.Record.Proves(*asked) {
				w.ask, s.Asked = "", nil
			}
		case Prune:
			var gone []string
			for addon := range w.inCluster {
				if !m.Nothing && !slices.Contains(slices.Concat(m.Addons, m.Behind), addon) {
					gone = append(gone, addon)
					delete(w.inCluster, addon)
				}
			}
			slices.Sort(gone)
			w.say("prune: %s", strings.Join(append(gone, mark(len(gone) == 0, "nothing")), ""))
			w.save(&s, m.Record)
		case Refresh:
			w.say("refresh %s", strings.Join(m.Addons, ", "))
			for _, addon := range m.Addons {
				w.inCluster[addon] = w.class
			}
			w.save(&s, m.Record)
		case Await:
			w.say("await %s%s%s", m.Reason, mark(m.Stage != "", " of "+m.Stage), mark(m.Message != "", ": "+m.Message))
			w.save(&s, m.Record)
			return nil
		case Rest:
			var has []string
			for addon, class := range w.inCluster {
				has = append(has, addon+" of "+class)
			}
			slices.Sort(has)
			w.say("rest with %s", strings.Join(has, ", "))
			return nil
		case LetGo, Stand, Leave:
			w.say("%s", strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", m), "rollout.")))
			return nil
		}
	}
	return fmt.Errorf("no end of moves")
}

func (w *world) act(s *Situation, what string, stage release.Stage, result func(*Progress) *Result, bad string) {
	p := s.Progress[stage.Name]
	*result(&p) = Good
	if w.fate[stage.Name] == bad {
		*result(&p) = Bad
	}
	s.Progress[stage.Name] = p
	w.say("%s %s%s", what, stage.Name, mark(*result(&p) == Bad, ": no"))
}

func (w *world) save(s *Situation, record Record) {
	s.Record = record
	w.record = record.String()
}

func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.out, "    "+format+"\n", args...)
}

func mark(is bool, text string) string {
	if is {
		return text
	}
	return ""
}
