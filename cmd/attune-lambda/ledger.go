package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/google/uuid"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/pack"
)

const (
	// storedMax bytes of a document are stored; an item of DynamoDB may have 400 KB.
	storedMax = 380 << 10
	// longestLease is how long a run without a deadline keeps others out, when it ended without a word.
	longestLease = 15 * time.Minute
	// tableTime is the longest wait for the table.
	tableTime = 10 * time.Second
	// leaseMargin is for what a function does after its actions have ended.
	leaseMargin = 2 * time.Second
)

// The attributes of an item. id is the table's key, expires_at its TTL.
const (
	attrID       = "id"
	attrState    = "run_state" // running or done
	attrOwner    = "run_owner" // whose run it is
	attrLease    = "lease_until"
	attrDigest   = "request_digest"
	attrDocument = "document"
	attrExpires  = "expires_at"

	stateRunning, stateDone = "running", "done"
)

// ledger remembers which ids were run, in a DynamoDB table that all of a function's environments share. What is written is conditional: of two
// deliveries of one id, one runs.
type ledger struct {
	table  string
	ttl    time.Duration
	client func() *dynamodb.Client // made by the first who needs it
}

func newLedger(table string, ttl time.Duration, env awsEnv) *ledger {
	return &ledger{table: table, ttl: ttl, client: sync.OnceValue(func() *dynamodb.Client { return newDynamoDB(env) })}
}

// ledgerEntry is one id that is ours to run, or was run before.
type ledgerEntry struct {
	key, owner, digest string
	document           *document // of the run before; nil: ours
}

// begin claims a call's id until its run has ended, or should have. An error is a *refusal: another run of the id goes on, or the table
// cannot be reached.
func (l *ledger) begin(ctx context.Context, function string, c *call, until time.Time) (*ledgerEntry, error) {
	e := &ledgerEntry{key: function + ":" + c.request.ID, owner: uuid.NewString(), digest: requestDigest(c.request)}
	now := time.Now()
	lease := now.Add(longestLease)
	ctx, cancel := context.WithTimeout(ctx, tableTime)
	defer cancel()
	if !until.IsZero() {
		lease = until.Add(reserve + leaseMargin)
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	item := l.item(e, stateRunning, now)
	item[attrLease] = numberValue(lease.UnixMilli())
	_, err := l.client().PutItem(ctx, &dynamodb.PutItemInput{
		TableName: &l.table, Item: item,
		ConditionExpression: aws.String("attribute_not_exists(" + attrID + ") OR " + attrExpires + " < :now OR (" +
			attrState + " = :running AND " + attrLease + " < :now_ms)"),
		ExpressionAttributeValues: map[string]types.AttributeValue{
			":now": numberValue(now.Unix()), ":running": stringValue(stateRunning), ":now_ms": numberValue(now.UnixMilli()),
		},
		ReturnValuesOnConditionCheckFailure: types.ReturnValuesOnConditionCheckFailureAllOld,
	})
	var taken *types.ConditionalCheckFailedException
	switch {
	case err == nil:
		return e, nil
	case errors.As(err, &taken):
		return l.earlier(e, taken.Item)
	}
	return nil, &refusal{kind: "internal", status: http.StatusInternalServerError,
		message: fmt.Sprintf("not run: whether %s was run before cannot be found out: %v", c.request.ID, err)}
}

// earlier reads what another delivery of the same id has left.
func (l *ledger) earlier(e *ledgerEntry, item map[string]types.AttributeValue) (*ledgerEntry, error) {
	if digest := stringOf(item, attrDigest); digest != e.digest {
		return nil, malformed("the id was used for another request")
	}
	if stringOf(item, attrState) != stateDone {
		return nil, &refusal{kind: "request", status: http.StatusConflict, message: "another run with the same id goes on",
			hint: "ask again when it has ended"}
	}
	e.document = &document{}
	if err := decodeDocument(stringOf(item, attrDocument), e.document); err != nil {
		return nil, &refusal{kind: "internal", status: http.StatusInternalServerError, message: fmt.Sprintf("the stored result cannot be read: %v", err)}
	}
	return e, nil
}

// decodeDocument keeps the digits of the result's numbers.
func decodeDocument(text string, d *document) error {
	if err := json.Unmarshal([]byte(text), d); err != nil {
		return err
	}
	value, err := pack.DecodeJSON([]byte(text))
	if whole, ok := value.(map[string]any); ok {
		d.Result.Result = whole["result"]
	}
	return err
}

// end stores the document for the next who asks.
func (l *ledger) end(ctx context.Context, e *ledgerEntry, document string) error {
	item := l.item(e, stateDone, time.Now())
	item[attrDocument] = stringValue(document)
	_, err := l.client().PutItem(ctx, &dynamodb.PutItemInput{
		TableName: &l.table, Item: item,
		ConditionExpression:       aws.String(attrOwner + " = :owner"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":owner": stringValue(e.owner)},
	})
	return err
}

// forget makes the id free to be run again.
func (l *ledger) forget(ctx context.Context, e *ledgerEntry) error {
	_, err := l.client().DeleteItem(ctx, &dynamodb.DeleteItemInput{
		TableName: &l.table, Key: map[string]types.AttributeValue{attrID: stringValue(e.key)},
		ConditionExpression:       aws.String(attrOwner + " = :owner"),
		ExpressionAttributeValues: map[string]types.AttributeValue{":owner": stringValue(e.owner)},
	})
	return err
}

func (l *ledger) item(e *ledgerEntry, state string, now time.Time) map[string]types.AttributeValue {
	return map[string]types.AttributeValue{
		attrID: stringValue(e.key), attrState: stringValue(state), attrOwner: stringValue(e.owner), attrDigest: stringValue(e.digest),
		attrExpires: numberValue(now.Add(l.ttl).Unix()),
	}
}

// requestDigest is of what is asked for, without what differs between deliveries.
func requestDigest(r executor.Request) string {
	r.ID, r.Context = "", executor.Context{}
	r.Env = maps.Clone(r.Env)
	delete(r.Env, traceVariable)
	data, _ := json.Marshal(r) // of JSON values
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// storable is a document as the ledger keeps it. A result that is too large for both the table and a bucket is left out: who asks later learns
// how it ended, and that the result is missing.
func (f *function) storable(ctx context.Context, d document) string {
	status, exit, cause := d.Status, d.ExitCode, d.Error
	data, err := f.fit(ctx, d, storedMax, func(d document) ([]byte, error) {
		d.Status, d.ExitCode, d.Error = status, exit, cause
		return encode(d)
	})
	if err != nil {
		return ""
	}
	return string(data)
}

func stringValue(value string) types.AttributeValue {
	return &types.AttributeValueMemberS{Value: value}
}

func numberValue(value int64) types.AttributeValue {
	return &types.AttributeValueMemberN{Value: strconv.FormatInt(value, 10)}
}

func stringOf(item map[string]types.AttributeValue, name string) string {
	if value, ok := item[name].(*types.AttributeValueMemberS); ok {
		return value.Value
	}
	return ""
}
