// Command verifier checks a log and a proof of mirrorlog's with the code of others.
//
//	verifier LOG_DIR ORIGIN VKEY WITNESS_VKEY PROOF LEAF_HEX OLD_SIZE OLD_ROOT_HEX
//
// It prints a line for each check, and ends with 1 at the first one that fails.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"filippo.io/torchwood"
	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func check(what string, err error) {
	if err != nil {
		fmt.Printf("FAILED %s: %v\n", what, err)
		os.Exit(1)
	}
	fmt.Printf("ok %s\n", what)
}

// folder reads the files of a log for torchwood.
type folder struct{ root string }

func (f folder) ReadTiles(_ context.Context, tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		content, err := os.ReadFile(filepath.Join(f.root, torchwood.TilePath(tile)))
		if err != nil {
			return nil, err
		}
		data = append(data, content)
	}
	return data, nil
}

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadEndpoint(_ context.Context, path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(f.root, path))
}

func main() {
	dir, origin, vkey, witness := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	proofFile, leafHex, oldSize, oldRootHex := os.Args[5], os.Args[6], os.Args[7], os.Args[8]
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()

	verifier, err := note.NewVerifier(vkey)
	check("x/mod reads the verifier key", err)
	cosigner, err := formats.NewVerifierForCosignatureV1(witness)
	check("transparency-dev reads the witness's key", err)
	raw, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	check("the checkpoint is there", err)
	opened, err := note.Open(raw, note.VerifierList(verifier))
	check("x/mod verifies the checkpoint", err)
	parsed, err := torchwood.ParseCheckpoint(opened.Text)
	check("torchwood parses the checkpoint", err)
	tree := tlog.Tree{N: parsed.N, Hash: parsed.Hash}

	fetcher := client.FileFetcher{Root: dir}
	_, _, _, err = client.FetchCheckpoint(ctx, fetcher.ReadCheckpoint, verifier, origin)
	check("tessera's client verifies the checkpoint", err)
	builder, err := client.NewProofBuilder(ctx, uint64(tree.N), fetcher.ReadTile)
	check("tessera's client reads the tiles", err)
	old, err := strconv.ParseUint(oldSize, 10, 64)
	check("the old size is a number", err)
	oldRoot, err := hex.DecodeString(oldRootHex)
	check("the old root is a hash", err)
	consistency, err := builder.ConsistencyProof(ctx, old, uint64(tree.N))
	check("tessera's client builds a consistency proof", err)
	check("the older checkpoint is consistent", proof.VerifyConsistency(
		rfc6962.DefaultHasher, old, uint64(tree.N), consistency, oldRoot, tree.Hash[:]))

	reader := folder{root: dir}
	torch, err := torchwood.NewClient(reader)
	check("torchwood opens the log", err)
	count := int64(0)
	for range torch.Entries(ctx, tree, 0) {
		count++
	}
	check("torchwood reads the full bundles", torch.Err())
	if whole := tree.N / 256 * 256; count < whole {
		check("torchwood reads all full bundles", fmt.Errorf("%d of %d", count, whole))
	}
	for index := tree.N / 256 * 256; index < tree.N; index++ {
		if _, _, err := torch.Entry(ctx, tree, index); err != nil {
			check(fmt.Sprintf("torchwood reads entry %d", index), err)
		}
	}
	check("torchwood reads the last bundle", nil)
	checkProof(proofFile, leafHex, verifier, cosigner)
	checkAll(ctx, origin, verifier, fetcher)
}

// checkProof verifies a .tlog-proof file as c2sp.org/tlog-proof says.
func checkProof(file, leafHex string, verifier, cosigner note.Verifier) {
	content, err := os.ReadFile(file)
	check("the proof is there", err)
	head, checkpoint, _ := strings.Cut(string(content), "\n\n")
	lines := strings.Split(head, "\n")
	if lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "extra ") {
		check("the proof's header", errors.New(head))
	}
	extra, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	check("the proof's extra data", err)
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	check("the proof's index", err)
	var path tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			check("a line of the proof", err)
		}
		path = append(path, hash)
	}
	opened, err := note.Open([]byte(checkpoint), note.VerifierList(verifier, cosigner))
	check("x/mod verifies the proof's checkpoint", err)
	if len(opened.Sigs) != 2 {
		check("log and witness have signed", fmt.Errorf("%d signatures", len(opened.Sigs)))
	}
	tree, err := tlog.ParseTree([]byte("go.sum database tree\n" + strings.SplitN(opened.Text, "\n", 2)[1]))
	check("x/mod parses the tree", err)
	leaf, err := hex.DecodeString(leafHex)
	check("the leaf is hexadecimal", err)
	if string(extra[:72]) != string(leaf) {
		check("the leaf is in the proof", fmt.Errorf("%x", extra))
	}
	check("x/mod verifies the inclusion",
		tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(leaf)))
	digest := sha256.Sum256(extra[72:])
	if string(digest[:]) != string(leaf[8:40]) {
		check("the command has the digest of its leaf", fmt.Errorf("%x", digest))
	}
	check(fmt.Sprintf("the command of position %d is proved",
		binary.BigEndian.Uint64(leaf[:8])), nil)
}

// checkAll lets tessera compute the whole tree again. Its time-out counts as a failure.
func checkAll(ctx context.Context, origin string, verifier note.Verifier, f client.FileFetcher) {
	hasher := func(bundle []byte) ([][]byte, error) {
		var hashes [][]byte
		for len(bundle) > 0 {
			entry, rest, err := torchwood.ReadTileEntry(bundle)
			if err != nil {
				return nil, err
			}
			hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
			bundle = rest
		}
		return hashes, nil
	}
	done := make(chan error, 1)
	go func() { done <- fsck.New(origin, verifier, f, hasher, fsck.Opts{N: 1}).Check(ctx) }()
	select {
	case err := <-done:
		check("tessera's fsck computes the tree again", err)
	case <-time.After(30 * time.Second):
		check("tessera's fsck computes the tree again", errors.New("no answer within 30 s"))
	}
}
