// Copyright The Cluster Stack Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package signtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math/bits"
	"net/http"
	"path"
	"sync"
	"testing"
	"time"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"         // an entry for an envelope
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1" // an entry for a file
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
)

// Names of the one log that there is.
const (
	logName = "rekor.localhost"
	tree    = 42
)

// transparencyLog is a Merkle tree of entries, with the first version of Rekor's API. It takes in what it can verify.
type transparencyLog struct {
	key *ecdsa.PrivateKey
	id  string // of the key, in hexadecimal digits

	mu      sync.Mutex
	leaves  [][]byte // hashes of the entries
	answers map[string]map[string]any
}

func newLog(t testing.TB) *transparencyLog {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	l := &transparencyLog{key: key, id: hexSum(der), answers: map[string]map[string]any{}}
	// Others use it, too: a proof in a tree of one leaf would prove little about proofs.
	for i := range 5 {
		l.leaves = append(l.leaves, hashLeaf([]byte{byte(i)}))
	}
	return l
}

// trusted says how entries of the log are recognised.
func (l *transparencyLog) trusted(url string) *root.TransparencyLog {
	id, _ := hex.DecodeString(l.id) // it was encoded above
	return &root.TransparencyLog{
		BaseURL: url, ID: id, ValidityPeriodStart: time.Now().Add(-time.Hour),
		HashFunc: crypto.SHA256, PublicKey: l.key.Public(), SignatureHashFunc: crypto.SHA256,
	}
}

// add takes in an entry, unless it is there.
func (l *transparencyLog) add(w http.ResponseWriter, req *http.Request, ahead time.Duration) {
	refuse := func(code int, err error) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"code": code, "message": err.Error()}) // the client says what it lacks
	}
	proposed, err := models.UnmarshalProposedEntry(req.Body, runtime.JSONConsumer())
	if err != nil {
		refuse(http.StatusBadRequest, err)
		return
	}
	entry, err := types.CreateVersionedEntry(proposed)
	if err != nil {
		refuse(http.StatusBadRequest, err)
		return
	}
	body, err := types.CanonicalizeEntry(req.Context(), entry)
	if err != nil {
		refuse(http.StatusBadRequest, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	uuid := hex.EncodeToString(hashLeaf(body))
	where := "/api/v1/log/entries/" + uuid
	w.Header().Set("Location", where)
	if _, there := l.answers[uuid]; there {
		refuse(http.StatusConflict, errExists)
		return
	}
	l.leaves = append(l.leaves, hashLeaf(body))
	answer, err := l.answer(req.Context(), body, time.Now().Add(ahead).Unix())
	if err != nil {
		refuse(http.StatusInternalServerError, err)
		return
	}
	l.answers[uuid] = answer
	w.Header().Set("ETag", uuid)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{uuid: answer}) // the client says what it lacks
}

type logError string

func (e logError) Error() string { return string(e) }

const errExists = logError("an equivalent entry already exists in the transparency log")

// get returns an entry as it was told to who added it.
func (l *transparencyLog) get(w http.ResponseWriter, req *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	uuid := path.Base(req.URL.Path)
	answer, there := l.answers[uuid]
	if !there {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{uuid: answer}) // the client says what it lacks
}

// answer describes the newest entry: with the promise to keep it, and the proof that it is in the tree.
func (l *transparencyLog) answer(ctx context.Context, body []byte, at int64) (map[string]any, error) {
	index := len(l.leaves) - 1
	promise, err := json.Marshal(struct { // in the order of the canonical form
		Body           []byte `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogID          string `json:"logID"`
		LogIndex       int    `json:"logIndex"`
	}{body, at, l.id, index})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(promise)
	promised, err := ecdsa.SignASN1(rand.Reader, l.key, sum[:])
	if err != nil {
		return nil, err
	}
	signer, err := signature.LoadECDSASigner(l.key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	checkpoint, err := util.CreateAndSignCheckpoint(ctx, logName, tree, uint64(len(l.leaves)), hashTree(l.leaves), signer)
	if err != nil {
		return nil, err
	}
	proof := []string{}
	for _, hash := range pathTo(index, l.leaves) {
		proof = append(proof, hex.EncodeToString(hash))
	}
	return map[string]any{
		"body": base64.StdEncoding.EncodeToString(body), "integratedTime": at, "logID": l.id, "logIndex": index,
		"verification": map[string]any{
			"signedEntryTimestamp": promised,
			"inclusionProof": map[string]any{
				"checkpoint": string(checkpoint), "hashes": proof, "logIndex": index,
				"rootHash": hex.EncodeToString(hashTree(l.leaves)), "treeSize": len(l.leaves),
			},
		},
	}, nil
}

// The hashes of RFC 6962, section 2.1.

func hashLeaf(data []byte) []byte { return sum(append([]byte{0}, data...)) }

func hashNode(left, right []byte) []byte { return sum(append(append([]byte{1}, left...), right...)) }

func sum(data []byte) []byte {
	s := sha256.Sum256(data)
	return s[:]
}

func hashTree(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := split(len(leaves))
	return hashNode(hashTree(leaves[:k]), hashTree(leaves[k:]))
}

// pathTo returns what has to be known beside a leaf to compute the hash of the tree.
func pathTo(index int, leaves [][]byte) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := split(len(leaves))
	if index < k {
		return append(pathTo(index, leaves[:k]), hashTree(leaves[k:]))
	}
	return append(pathTo(index-k, leaves[k:]), hashTree(leaves[:k]))
}

// split returns the largest power of two below n.
func split(n int) int { return 1 << (bits.Len(uint(n-1)) - 1) }
