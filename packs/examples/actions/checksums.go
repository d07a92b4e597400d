// Checksums digests the files below a directory.
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/google/uuid"
)

type parameters struct {
	Directory string `json:"directory"`
	HMACKey   string `json:"hmac_key"`
}

type result struct {
	Run   string            `json:"run"`
	Files map[string]string `json:"files"`
	Bytes int64             `json:"bytes"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var p parameters
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		return fmt.Errorf("parameters: %w", err)
	}
	paths := make(chan string)
	var walked error
	go func() {
		defer close(paths)
		walked = filepath.WalkDir(p.Directory, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				paths <- path
			}
			return err
		})
	}()
	out := result{Run: uuid.NewString(), Files: map[string]string{}}
	var mu sync.Mutex
	var workers sync.WaitGroup
	var failed error
	for range runtime.NumCPU() {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for path := range paths {
				sum, size, err := digest(path, p.HMACKey)
				mu.Lock()
				if err != nil {
					failed = err
				}
				out.Files[path] = sum
				out.Bytes += size
				mu.Unlock()
			}
		}()
	}
	workers.Wait()
	if walked != nil {
		return walked
	}
	if failed != nil {
		return failed
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func digest(path, key string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	var h hash.Hash = sha256.New()
	if key != "" {
		h = hmac.New(sha256.New, []byte(key))
	}
	size, err := io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}
