package natsq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/attune-run/attune/queue"
)

// readError gives an error of a request that changes nothing its name in package queue.
func readError(what string, err error) error {
	if kind := kindOf(err); kind != nil {
		return fmt.Errorf("%s: %w: %w", what, kind, err)
	}
	if isSilence(err) {
		return fmt.Errorf("%s: %w: %w", what, queue.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// writeError is readError for a request that may have been carried out although no answer came.
func writeError(what string, err error) error {
	if kind := kindOf(err); kind == nil && isSilence(err) {
		return fmt.Errorf("%s: %w: %w", what, queue.ErrUncertain, err)
	}
	return readError(what, err)
}

func isSilence(err error) bool {
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, jetstream.ErrAsyncPublishTimeout) || errors.Is(err, jetstream.ErrTooManyStalledMsgs)
}

// kindOf is the error of package queue that it certainly is, or nil.
func kindOf(err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return queue.ErrTooLarge
	case errors.Is(err, jetstream.ErrMsgNotFound), errors.Is(err, jetstream.ErrObjectNotFound):
		return queue.ErrNotFound
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse), // nobody took it
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrReconnectBufExceeded),
		errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return queue.ErrUnavailable
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return kindOfAPI(api)
	}
	return nil
}

func kindOfAPI(err *jetstream.APIError) error {
	switch server.ErrorIdentifier(err.ErrorCode) {
	case server.JSStreamWrongLastSequenceErrF, server.JSStreamWrongLastSequenceConstantErr:
		return queue.ErrConflict
	case server.JSNoMessageFoundErr:
		return queue.ErrNotFound
	case server.JSStreamMessageExceedsMaximumErr:
		return queue.ErrTooLarge
	case server.JSInsufficientResourcesErr, server.JSStorageResourcesExceededErr, server.JSMemoryResourcesExceededErr,
		server.JSAccountResourcesExceededErr:
		return queue.ErrFull
	case server.JSStreamStoreFailedF: // the store's error; only its text travels
		if !isDuplicate(err) {
			return queue.ErrFull
		}
	case server.JSClusterNotAvailErr, server.JSNotEnabledErr, server.JSNotEnabledForAccountErr, server.JSStreamOfflineErr:
		return queue.ErrUnavailable
	}
	return nil
}

// isDuplicate tells whether a message was refused because its subject has one already.
func isDuplicate(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && server.ErrorIdentifier(api.ErrorCode) == server.JSStreamStoreFailedF &&
		api.Description == server.ErrMaxMsgsPerSubject.Error()
}

func hasCode(err error, codes ...server.ErrorIdentifier) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, code := range codes {
		if server.ErrorIdentifier(api.ErrorCode) == code {
			return true
		}
	}
	return false
}

// withoutUserInfo takes credentials out of a list of URLs, also of what is none.
func withoutUserInfo(urls string) string {
	parts := strings.Split(urls, ",")
	for i, part := range parts {
		if at := strings.LastIndex(part, "@"); at >= 0 {
			scheme, _, found := strings.Cut(part[:at], "://")
			if found {
				scheme += "://"
			} else {
				scheme = ""
			}
			parts[i] = scheme + part[at+1:]
		}
	}
	return strings.Join(parts, ",")
}
