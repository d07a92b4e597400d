package detect

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"
)

// Bake is the memory in file as it belongs into a layer that does not keep times and inodes: interpreters are known by their
// content there. Nil means that nothing is remembered.
func Bake(file string) ([]byte, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	baked := answers{}
	for id, list := range read(file) {
		for _, a := range list {
			if a.Digest != "" {
				a.Stat, a.Asked = "", time.Time{}
				baked[id] = []answer{a} // the newest is the last
			}
		}
	}
	if len(baked) == 0 {
		return nil, nil
	}
	return json.Marshal(memoryFile{Schema: memorySchema, Answers: baked})
}
