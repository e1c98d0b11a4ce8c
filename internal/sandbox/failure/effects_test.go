// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package failure

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// failure of a name that was created at noon.
func failure(name string, kind Type, changes ...func(*Failure)) Failure {
	f := Failure{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, CreationTimestamp: metav1.NewTime(noon)},
		Spec:       Spec{ClusterName: "c", Type: kind},
	}
	for _, change := range changes {
		change(&f)
	}
	return f
}

func lasts(d time.Duration) func(*Failure) {
	return func(f *Failure) { f.Spec.Duration = &metav1.Duration{Duration: d} }
}

func delayed(d time.Duration) func(*Failure) {
	return func(f *Failure) { f.Spec.Delay = &metav1.Duration{Duration: d} }
}

func created(after time.Duration) func(*Failure) {
	return func(f *Failure) { f.CreationTimestamp = metav1.NewTime(noon.Add(after)) }
}

func selecting(m Machines) func(*Failure) { return func(f *Failure) { f.Spec.Machines = &m } }

func hit(machines ...string) func(*Failure) {
	return func(f *Failure) { f.Status.Machines = machines }
}

func pods(p Pods) func(*Failure) { return func(f *Failure) { f.Spec.Pods = &p } }

func TestInForce(t *testing.T) {
	cases := map[string]struct {
		give Failure
		at   time.Duration
		want bool
	}{
		"LastsUntilDeleted": {failure("f", MachineDead), 1000 * time.Hour, true},
		"Deleted":           {failure("f", MachineDead, func(f *Failure) { f.DeletionTimestamp = &metav1.Time{Time: noon} }), 0, false},
		"BeforeItsEnd":      {failure("f", MachineDead, lasts(time.Minute)), 59 * time.Second, true},
		"AtItsEnd":          {failure("f", MachineDead, lasts(time.Minute)), time.Minute, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := c.give.InForce(noon.Add(c.at)); got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}

func TestHits(t *testing.T) {
	controlPlane := Machine{Name: "cp", ControlPlane: true, Provisioned: true, Joined: true, Created: noon}
	old := Machine{Name: "old", Provisioned: true, Joined: true, Created: noon.Add(time.Second), Labels: map[string]string{"pool": "a"}}
	made := Machine{Name: "made", Provisioned: true, Created: noon.Add(2 * time.Second), Labels: map[string]string{"pool": "b"}}
	asked := Machine{Name: "asked", Created: noon.Add(3 * time.Second), Labels: map[string]string{"pool": "b"}}
	all := []Machine{asked, made, old, controlPlane}
	cases := map[string]struct {
		why  string
		give Failure
		want []string
	}{
		"AllMachines":    {give: failure("f", MachineDead), want: []string{"cp", "old", "made", "asked"}},
		"NotYetMade":     {why: "What is there cannot be missing.", give: failure("f", MachineMissing), want: []string{"asked"}},
		"NotYetJoined":   {give: failure("f", NodeMissing), want: []string{"made", "asked"}},
		"Role":           {give: failure("f", MachineDead, selecting(Machines{Role: ControlPlane})), want: []string{"cp"}},
		"Names":          {give: failure("f", MachineDead, selecting(Machines{Names: []string{"old", "none"}})), want: []string{"old"}},
		"Labels":         {give: failure("f", MachineDead, selecting(Machines{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"pool": "b"}}})), want: []string{"made", "asked"}},
		"EverythingSet":  {give: failure("f", MachineDead, selecting(Machines{Role: Worker, Names: []string{"cp", "old"}})), want: []string{"old"}},
		"Count":          {why: "The oldest, so that it is the same ones each time.", give: failure("f", MachineDead, selecting(Machines{Role: Worker, Count: ptr.To(int32(1))})), want: []string{"old"}},
		"Remembered":     {why: "Or a count of one would hit every replacement too.", give: failure("f", MachineDead, selecting(Machines{Count: ptr.To(int32(1))}), hit("gone")), want: []string{"gone"}},
		"MoreOfACount":   {give: failure("f", MachineDead, selecting(Machines{Count: ptr.To(int32(2))}), hit("gone")), want: []string{"gone", "cp"}},
		"ProgramsOfACP":  {why: "Workers have neither etcd nor an API server.", give: failure("f", EtcdDown), want: []string{"cp"}},
		"NotOfMachines":  {give: failure("f", LoadBalancerSilent), want: nil},
		"InvalidMatches": {why: "Nothing rather than everything.", give: failure("f", MachineDead, selecting(Machines{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}})), want: nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.give.Hits(all)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
	t.Run("NoEtcdThatOthersNeedToo", func(t *testing.T) {
		shares := Machine{Name: "m", ControlPlane: true, SharedEtcd: true}
		f := failure("f", EtcdDown)
		if got := f.Hits([]Machine{shares}); len(got) > 0 {
			t.Errorf("hits %v", got)
		}
	})
	t.Run("NoMachineThatIsDeleted", func(t *testing.T) {
		deleted := Machine{Name: "m", Deleting: true}
		f := failure("f", MachineDead)
		if got := f.Hits([]Machine{deleted}); len(got) > 0 {
			t.Errorf("hits %v", got)
		}
	})
}

func TestForMachine(t *testing.T) {
	type summary struct {
		Missing, NodeMissing, Dead, Error string
		Etcd, APIServer                   Disturbance
		Change                            time.Duration
	}
	cases := map[string]struct {
		why  string
		give []Failure
		at   time.Duration
		want summary
	}{
		"Nothing":    {},
		"NotHit":     {why: "Status decides, so that all who look agree.", give: []Failure{failure("f", MachineDead)}},
		"OtherIsHit": {give: []Failure{failure("f", MachineDead, hit("other"))}},
		"Dead":       {give: []Failure{failure("f", MachineDead, hit("m"))}, want: summary{Dead: "f"}},
		"DeadForAWhile": {
			give: []Failure{failure("f", MachineDead, hit("m"), lasts(time.Minute))}, at: time.Second,
			want: summary{Dead: "f", Change: time.Minute},
		},
		"Ended":      {give: []Failure{failure("f", MachineDead, hit("m"), lasts(time.Minute))}, at: time.Minute},
		"NeverComes": {give: []Failure{failure("f", MachineMissing, hit("m"))}, at: time.Hour, want: summary{Missing: "f"}},
		"ComesLate": {
			why:  "Counted from when it should have come.",
			give: []Failure{failure("f", MachineMissing, hit("m"), delayed(time.Minute))}, at: 30 * time.Second,
			want: summary{Missing: "f", Change: 70 * time.Second},
		},
		"HasComeLate": {give: []Failure{failure("f", MachineMissing, hit("m"), delayed(time.Minute))}, at: 70 * time.Second},
		"NodeComesLate": {
			give: []Failure{failure("f", NodeMissing, hit("m"), delayed(time.Minute))}, at: 30 * time.Second,
			want: summary{NodeMissing: "f", Change: 70 * time.Second},
		},
		"TheOlderOneIsNamed": {
			give: []Failure{failure("a", MachineDead, hit("m"), created(time.Second)), failure("b", MachineDead, hit("m"))}, at: time.Minute,
			want: summary{Dead: "b"},
		},
		"TheFirstEndIsTheNextChange": {
			give: []Failure{failure("a", MachineDead, hit("m"), lasts(time.Hour)), failure("b", EtcdDown, lasts(time.Minute))}, at: time.Second,
			want: summary{Dead: "a", Change: time.Minute},
		},
		"Programs": {
			give: []Failure{
				failure("a", EtcdSlow, hit("m"), created(time.Second)), failure("b", EtcdSlow, hit("m"), delayed(200*time.Millisecond)),
				failure("c", APIServerHung, hit("m")), failure("d", APIServerDown, hit("m")),
			},
			want: summary{Etcd: Disturbance{Pause: 200 * time.Millisecond}, APIServer: Disturbance{Down: true, Hung: true}},
		},
	}
	name := func(f *Failure) string {
		if f == nil {
			return ""
		}
		return f.Name
	}
	for title, c := range cases {
		t.Run(title, func(t *testing.T) {
			e := ForMachine(c.give, "m", noon.Add(10*time.Second), noon.Add(c.at))
			got := summary{name(e.Missing), name(e.NodeMissing), name(e.Dead), name(e.Error), e.Etcd, e.APIServer, 0}
			if !e.Change.IsZero() {
				got.Change = e.Change.Sub(noon)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.why, diff)
			}
		})
	}
}

func TestForCluster(t *testing.T) {
	cases := map[string]struct {
		give []Failure
		want LoadBalancer
	}{
		"Nothing": {},
		"Silent":  {[]Failure{failure("f", LoadBalancerSilent)}, LoadBalancer{Silent: true, Percent: 100}},
		"Some": {
			[]Failure{failure("f", LoadBalancerRefuses, func(f *Failure) { f.Spec.Percent, f.Spec.Seed = ptr.To(int32(20)), ptr.To(int64(7)) })},
			LoadBalancer{Refuse: true, Percent: 20, Seed: 7},
		},
		"Resets":     {[]Failure{failure("f", LoadBalancerResets)}, LoadBalancer{Reset: time.Second, Percent: 100}},
		"ResetsSlow": {[]Failure{failure("f", LoadBalancerResets, delayed(time.Minute))}, LoadBalancer{Reset: time.Minute, Percent: 100}},
		"TheOlder": {
			[]Failure{failure("a", LoadBalancerRefuses, created(time.Second)), failure("b", LoadBalancerSilent)},
			LoadBalancer{Silent: true, Percent: 100},
		},
		"OnlyThoseInForce": {[]Failure{failure("a", LoadBalancerRefuses, lasts(time.Second)), failure("b", MachineDead)}, LoadBalancer{}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, ForCluster(c.give, noon.Add(time.Minute)).LoadBalancer); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestOverruledBy(t *testing.T) {
	later := created(time.Second)
	cases := map[string]struct {
		give, other Failure
		want        bool
	}{
		"OlderOfTheLoadBalancer": {failure("f", LoadBalancerSilent, later), failure("o", LoadBalancerRefuses), true},
		"OlderOfTheCluster":      {failure("f", InfraClusterError, later), failure("o", InfraClusterError), true},
		"OlderThatHasEnded":      {failure("f", LoadBalancerSilent, later), failure("o", LoadBalancerRefuses, lasts(time.Second)), false},
		"Younger":                {failure("f", LoadBalancerSilent), failure("o", LoadBalancerRefuses, later), false},
		"OfSomethingElse":        {failure("f", LoadBalancerSilent, later), failure("o", InfraClusterError), false},
		"OfMachines":             {failure("f", MachineDead, later), failure("o", MachineDead), false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			by := c.give.OverruledBy([]Failure{c.give, c.other}, noon.Add(time.Minute))
			if got := by != nil && by.Name == "o"; got != c.want {
				t.Errorf("overruled by %v, want it: %t", by, c.want)
			}
		})
	}
}

func TestPod(t *testing.T) {
	app := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "web-0", Labels: map[string]string{"app": "web"}}}
	cases := map[string]struct {
		give Pods
		want bool
	}{
		"All":            {Pods{}, true},
		"Namespace":      {Pods{Namespace: "apps"}, true},
		"OtherNamespace": {Pods{Namespace: "kube-system"}, false},
		"Name":           {Pods{Names: []string{"web-0"}}, true},
		"OtherName":      {Pods{Names: []string{"web-1"}}, false},
		"Labels":         {Pods{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}, true},
		"OtherLabels":    {Pods{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}, false},
		"NotAll":         {Pods{Namespace: "apps", Names: []string{"web-1"}}, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e := ForCluster([]Failure{failure("f", PodCrashLoop, pods(c.give))}, noon)
			if got := e.Pod(app) != nil; got != c.want {
				t.Errorf("got %t, want %t", got, c.want)
			}
		})
	}
}
