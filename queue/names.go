package queue

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// What both ends of the pool must call the same. Ids are UUIDs, actions "pack.name", digests "sha256:" and hex or hex alone.

// SubmitTopic takes questions of those who have no client of their own: a SubmitQuestion, answered with a SubmitAnswer.
const SubmitTopic = "submit"

// DoneTopic hears of the end of one execution, as soon as it is in the Record. The message is empty.
func DoneTopic(id string) string { return "done." + id }

// CancelTopic hears that a running execution is to end, as soon as the Cancel is stored. The message is empty.
func CancelTopic(id string) string { return "cancel." + id }

// CatalogKey is the key of an action of one pack version.
func CatalogKey(pin Pin, action string) string {
	return PackKey(pin) + "." + LimitKey(strings.TrimPrefix(action, pin.Ref+"."))
}

// PackKey is the key of one pack version.
func PackKey(pin Pin) string { return pin.Ref + "." + short(pin.Digest) }

// LimitKey is an action's name as one token.
func LimitKey(action string) string { return strings.ReplaceAll(action, ".", "=") }

// SubmissionObject holds the text of a submission; the digest keeps two of one id apart.
func SubmissionObject(id, digest string) string { return "submissions/" + id + "/" + bare(digest) }

// ResultObject holds the result that a holder of that epoch came to.
func ResultObject(id string, epoch uint64) string {
	return "results/" + id + "/" + strconv.FormatUint(epoch, 10)
}

// ArtifactObject holds one artifact by its content, so that two holders of one execution do not get into each other's way.
func ArtifactObject(id, digest string) string { return "artifacts/" + id + "/" + bare(digest) }

// PackObject holds the bundle of a pack, a .tar.gz.
func PackObject(digest string) string { return "packs/" + bare(digest) }

func bare(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

func short(digest string) string {
	hexed := bare(digest)
	if len(hexed) > 16 {
		hexed = hexed[:16]
	}
	if _, err := hex.DecodeString(hexed); err != nil {
		return "none"
	}
	return hexed
}
