package natsq

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// AccessError is a server that does not let us in, or that we do not trust: trying again does not help.
type AccessError struct {
	Where string // the URL, without credentials
	What  string // went wrong, where Err alone does not say it; may be empty
	Err   error
	Todo  string // what to do about it
}

// Error names the server and the reason.
func (e *AccessError) Error() string {
	if e.What == "" {
		return fmt.Sprintf("connect to %s: %v", e.Where, e.Err)
	}
	return fmt.Sprintf("connect to %s: %s: %v", e.Where, e.What, e.Err)
}

// Unwrap is the reason.
func (e *AccessError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *AccessError) Hint() string { return e.Todo }

// checkURLs refuses what is no URL before somebody waits for it.
func (b *broker) checkURLs() error {
	for one := range strings.SplitSeq(b.options.URL, ",") {
		if one = strings.TrimSpace(one); !strings.Contains(one, "://") {
			one = "nats://" + one // as the client takes it
		}
		u, err := url.Parse(one)
		switch {
		case err != nil: // and says the URL, with the password that may be in it
			err = errors.New("it is no URL")
		case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			err = fmt.Errorf("%s:// is no protocol of NATS", u.Scheme)
		case u.Hostname() == "":
			err = errors.New("it names no host")
		}
		if err != nil {
			shown := b.options.URL[strings.LastIndex(b.options.URL, "@")+1:] // a comma in a password makes two URLs of one
			return &AccessError{Where: shown, Err: err,
				Todo: "write it like nats://host:4222 or tls://host:4222; characters of a password that mean something in a URL are written %3F and so on, or the password as ATTUNE_NATS_PASSWORD"}
		}
	}
	return nil
}

// accessOptions are what lets this client in. The files are read again with each connection, so that they may be replaced.
func (b *broker) accessOptions() ([]nats.Option, error) {
	o := b.options
	if err := b.checkURLs(); err != nil {
		return nil, err
	}
	var options []nats.Option
	for _, file := range []struct{ what, path string }{
		{"credentials", o.Creds}, {"certificate authority", o.CA}, {"client certificate", o.Cert}, {"key of the client certificate", o.Key},
	} {
		if file.path == "" {
			continue
		}
		if _, err := os.ReadFile(file.path); err != nil {
			return nil, &AccessError{Where: b.where(), What: file.what, Err: err, Todo: "name a file that this user can read"}
		}
	}
	if o.Creds != "" {
		credentials, err := credentials(o.Creds)
		if err != nil {
			return nil, &AccessError{Where: b.where(), What: "credentials " + o.Creds, Err: err,
				Todo: "it is what `nsc generate creds` writes, or the seed of a user's nkey (SU…)"}
		}
		options = append(options, credentials)
	}
	if o.CA != "" {
		options = append(options, nats.RootCAs(o.CA))
	}
	if o.Cert != "" {
		if _, err := tls.LoadX509KeyPair(o.Cert, o.Key); err != nil {
			return nil, &AccessError{Where: b.where(), What: "client certificate " + o.Cert, Err: err, Todo: "it is PEM, and the key is its own"}
		}
		options = append(options, nats.ClientCert(o.Cert, o.Key))
	}
	if o.Token != "" {
		options = append(options, nats.Token(o.Token))
	}
	if o.User != "" {
		options = append(options, nats.UserInfo(o.User, o.Password))
	}
	return options, nil
}

// credentials reads a file with a user's JWT and seed, or with a seed alone.
func credentials(file string) (nats.Option, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(text, []byte("BEGIN NATS USER JWT")) {
		return nats.UserCredentials(file), nil
	}
	return nats.NkeyOptionFromSeed(file)
}

// refusal is err as an AccessError where the server, or this client, says no; nil where another try may do.
func (b *broker) refusal(err error) error {
	refused := &AccessError{Where: b.where(), Err: err}
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var alert *net.OpError
	var record tls.RecordHeaderError
	switch {
	case isUnauthorized(err):
		refused.What, refused.Todo = "the server does not let "+b.whom()+" in", b.credentialsHint()
	case errors.Is(err, nats.ErrNkeysNotSupported):
		refused.What, refused.Todo = "the server knows no keys", "its users have passwords or tokens: ATTUNE_NATS_USER and ATTUNE_NATS_PASSWORD, or ATTUNE_NATS_TOKEN"
	case errors.As(err, &authority):
		refused.What, refused.Todo = "the server's certificate is not trusted", "--nats-ca names the file with the authority that signed it"
	case errors.As(err, &name):
		refused.What, refused.Todo = "the server's certificate is another's", "write the server's address as its certificate has it"
	case errors.As(err, &invalid):
		refused.What, refused.Todo = "the server's certificate is not valid", "the server's operator must renew it, unless this machine's clock is wrong"
	case errors.As(err, &alert) && alert.Op == "remote error": // crypto/tls's for an alert
		refused.What, refused.Todo = "the server refuses this client's certificate", "--nats-cert and --nats-key name one that its authority has signed and that is valid"
	case errors.Is(err, nats.ErrSecureConnWanted), errors.Is(err, nats.ErrSecureConnRequired), errors.As(err, &record):
		refused.What, refused.Todo = "the server and this client do not agree on TLS", "write tls:// for a server that has it, and nats:// for one that has not"
	default:
		return nil
	}
	return refused
}

func isUnauthorized(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// whom is who we say we are, for people.
func (b *broker) whom() string {
	o := b.options
	switch {
	case o.Creds != "":
		return "the user of " + o.Creds
	case o.Token != "":
		return "this token"
	case o.User != "":
		return "user " + o.User
	case o.Cert != "":
		return "the user of " + o.Cert
	case withoutUserInfo(o.URL) != o.URL:
		return "the user that the URL names"
	}
	return "anybody without credentials"
}

func (b *broker) credentialsHint() string {
	if b.options.Creds != "" {
		return "its credentials may have expired or been revoked, or are of another operator; the server's log says which"
	}
	return "--nats-creds names a credentials file; ATTUNE_NATS_USER and ATTUNE_NATS_PASSWORD, or ATTUNE_NATS_TOKEN, hold what other servers ask for"
}

// standing is how a connection that was had before fares now.
type standing struct {
	conn    atomic.Pointer[nats.Conn] // once it was lost
	refused atomic.Bool               // it is not let in again
	denied  atomic.Pointer[string]    // what the server said last that the user has no permission for
	open    atomic.Bool               // all streams were opened
}

// report takes what the client says beside the answers to requests.
func (b *broker) report(err error) {
	switch what := err.Error(); {
	case isUnauthorized(err):
		return // reconnectPause says so
	case errors.Is(err, nats.ErrPermissionViolation) && !b.standing.open.Load():
		if !strings.Contains(what, "$SYS.") { // who we are need not be told
			b.standing.denied.Store(&what)
		}
		return // denied says so
	}
	b.log.Warn("The broker's client reports an error", "error", err)
}

// reconnectPause is reconnectDelay, but longer where we were refused: that lasts until somebody changes it.
func (b *broker) reconnectPause(attempt int) time.Duration {
	conn := b.standing.conn.Load()
	if conn == nil {
		return reconnectDelay(attempt)
	}
	refused := b.refusal(conn.LastError())
	if refused == nil {
		return reconnectDelay(attempt)
	}
	if !b.standing.refused.Swap(true) {
		b.log.Error("The broker does not let us in any more; it is asked again every half minute", "error", refused)
	}
	return refusedPause/2 + rand.N(refusedPause)
}

// refusedPause is the mean time between two tries of a client that was refused.
const refusedPause = 30 * time.Second

// denied is an AccessError where the server said that this user may not use what a pool is made of.
func (b *broker) denied() error {
	what := b.standing.denied.Load()
	if what == nil {
		return nil
	}
	return &AccessError{Where: b.where(), Err: errors.New(*what),
		Todo: "give the pool an account of its own, and let its users publish and subscribe to all of it"}
}

// noAccount is an AccessError where the account has no JetStream.
func (b *broker) noAccount(err error) error {
	if !hasCode(err, server.JSNotEnabledForAccountErr) {
		return nil
	}
	return &AccessError{Where: b.where(), Err: err, Todo: "the server's operator enables JetStream for the account of " + b.whom()}
}

// userOf reads who the server says we are: its name and its key where it has both.
func userOf(reply []byte) string {
	var info struct {
		Data struct {
			User string `json:"user"`
			Name string `json:"user_name"`
		} `json:"data"`
	}
	switch err := json.Unmarshal(reply, &info); {
	case err != nil || info.Data.User == "[REDACTED]": // a token
		return ""
	case info.Data.Name == "" || info.Data.Name == info.Data.User:
		return info.Data.User
	}
	return info.Data.Name + " (" + info.Data.User + ")"
}
