package natsq

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/attune-run/attune/queue"
)

// taker asks the consumers of many lanes for one message at a time. A lane is asked in one of two ways:
//
//   - a question, whether there is a message now (no_wait), is answered at once;
//   - a standing request, to send one as soon as there is one, is made while nothing is there and a slot is free.
//
// So a lane with a standing request is known to be empty, and costs nothing. The inbox lives as long as the taker: a message that
// arrives when nobody takes goes back.
type taker struct {
	work  *work
	inbox string // of replies, with its last dot; the rest is <generation>.<number of the lane>.<q or s>
	sub   *nats.Subscription

	mu         sync.Mutex
	err        error // that the inbox could not be subscribed
	closed     bool
	generation int // rises with each connection; answers to requests of an older one are void
	lanes      map[lane]*laneState
	numbered   []*laneState
	last       map[queue.Priority]string // route that was served last
	take       *take                     // nil while nobody takes
}

// laneState is what is known about a lane. It has questions or a standing request out, never both.
type laneState struct {
	lane
	number    int
	hot       bool      // it gave a message when it was asked last
	questions int       // that have no answer
	standing  time.Time // until then a standing request is out; zero means none
	idle      time.Time // until then it counts as empty
	away      time.Time // until then it is not asked at all: no server answers for it
}

func (l *laneState) askable(now time.Time) bool {
	return l.questions == 0 && l.standing.IsZero() && now.After(l.idle) && now.After(l.away)
}

// take is one call of Take. The receiver of replies writes wake, which has room for one; Take reads it.
type take struct {
	need int
	got  []queue.Delivery
	wake chan struct{}
}

func (t *take) tell() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

const (
	askAtOnce = 16              // lanes that may be empty, asked in one go
	askWait   = 2 * time.Second // for the answer to a question
	awayWait  = 250 * time.Millisecond
)

// emptyFor is how long a lane counts as empty while there is other work: about 2000 questions in a second.
func emptyFor(lanes int) time.Duration {
	return min(time.Duration(lanes)*500*time.Microsecond, time.Second)
}

// standFor is how long a standing request lives. It is short so that one does not fetch for long what a worker that has become
// busy must give back, and long enough that renewing them costs ten requests in a second, fifty at worst.
func standFor(lanes int) time.Duration {
	base := min(max(time.Duration(lanes)*100*time.Millisecond, 2*time.Second), 30*time.Second)
	return base - rand.N(base/5)
}

func newTaker(w *work) *taker {
	t := &taker{work: w, inbox: w.broker.nc.NewInbox() + ".", lanes: map[lane]*laneState{}, last: map[queue.Priority]string{}}
	t.sub, t.err = w.broker.nc.Subscribe(t.inbox+">", t.receive)
	w.broker.mu.Lock()
	defer w.broker.mu.Unlock()
	w.broker.takers[t] = struct{}{}
	return t
}

// Close leaves the inbox open until the server has forgotten the last request: a message that nobody hears of is lost until its
// ack wait is over.
func (t *taker) Close() {
	t.work.broker.mu.Lock()
	delete(t.work.broker.takers, t)
	t.work.broker.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.sub == nil {
		return
	}
	t.closed = true
	var last time.Time
	for _, l := range t.lanes {
		if l.standing.After(last) {
			last = l.standing
		}
	}
	time.AfterFunc(max(time.Until(last), 0), func() { _ = t.sub.Drain() })
}

// forget is called when the connection is a new one: the server knows none of the requests.
func (t *taker) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.generation++
	for _, l := range t.lanes {
		l.questions, l.standing, l.idle, l.away = 0, time.Time{}, time.Time{}, time.Time{}
	}
	if t.take != nil {
		t.take.tell()
	}
}

// receive takes everything that the inbox gets: messages, which come under their own subject, and statuses.
func (t *taker) receive(m *nats.Msg) {
	if reply, ok := strings.CutPrefix(m.Subject, t.inbox); ok {
		t.status(reply, m.Header.Get("Status"))
		return
	}
	d, err := t.work.delivery(m)
	if err != nil {
		t.work.broker.log.Warn("The queue holds what is no message of it", "error", err)
		_ = m.Respond([]byte("+TERM"))
		return
	}
	if !t.deliver(d) {
		_ = m.Respond([]byte("-NAK"))
	}
}

// deliver is false when nobody wants it.
func (t *taker) deliver(d *delivery) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.state(lane{d.message.Route, d.message.Priority})
	l.hot, l.idle = true, time.Time{}
	if l.questions > 0 {
		l.questions--
	} else {
		l.standing = time.Time{}
	}
	if t.take == nil {
		return false
	}
	defer t.take.tell()
	if len(t.take.got) >= t.take.need {
		return false
	}
	t.take.got = append(t.take.got, d)
	t.last[l.priority] = l.route
	return true
}

// status is an answer without a message.
func (t *taker) status(reply, status string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var generation, number int
	var kind string
	if _, err := fmt.Sscanf(strings.ReplaceAll(reply, ".", " "), "%d %d %s", &generation, &number, &kind); err != nil ||
		generation != t.generation || number >= len(t.numbered) {
		return
	}
	l := t.numbered[number]
	if kind == "q" {
		l.questions = max(l.questions-1, 0)
	} else {
		l.standing = time.Time{}
	}
	l.hot = false
	switch status {
	case "404": // nothing there
		l.idle = time.Now().Add(emptyFor(len(t.lanes)))
	case "408": // a standing request is over
	case "503": // no such consumer, or it has no leader
		l.away = time.Now().Add(askWait)
		go t.reopen(l)
	default: // 409: it moves to another server, or too many are asking
		l.away = time.Now().Add(awayWait)
	}
	if t.take != nil {
		t.take.tell()
	}
}

// reopen makes the route again, in case that its consumers are not merely without a leader.
func (t *taker) reopen(l *laneState) {
	ctx, cancel := context.WithTimeout(context.Background(), t.work.broker.options.Timeout)
	defer cancel()
	t.work.forget(l.route)
	if err := t.work.Open(ctx, l.route); err != nil {
		t.work.broker.log.Debug("A route has no consumer", "route", l.route, "error", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l.away = time.Time{}
	if t.take != nil {
		t.take.tell()
	}
}

func (t *taker) state(l lane) *laneState {
	s := t.lanes[l]
	if s == nil {
		s = &laneState{lane: l, number: len(t.numbered)}
		t.lanes[l] = s
		t.numbered = append(t.numbered, s)
	}
	return s
}

func (t *taker) Take(ctx context.Context, routes []string, n int) ([]queue.Delivery, error) {
	if t.err != nil {
		return nil, readError("take work", t.err)
	}
	taking := &take{need: n, wake: make(chan struct{}, 1)}
	t.mu.Lock()
	t.take = taking
	lanes := t.inOrder(routes)
	t.mu.Unlock()
	defer t.stop()
	for {
		err := t.work.broker.online(ctx)
		if err == nil {
			err = t.ask(ctx, taking, lanes)
		}
		if got := t.taken(taking); len(got) > 0 {
			return got, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err == nil {
			err = t.stand(lanes)
		}
		if err != nil {
			return nil, err
		}
		t.wait(ctx, taking, t.untilRenewal(lanes))
	}
}

// taken ends a take that got something. What comes later goes back.
func (t *taker) taken(taking *take) []queue.Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(taking.got) > 0 {
		t.take = nil
	}
	return taking.got
}

func (t *taker) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.take = nil
}

// inOrder gives, for each priority, the lanes of the routes, beginning behind the one that was served last.
func (t *taker) inOrder(routes []string) [][]*laneState {
	all := make([][]*laneState, len(priorities))
	for i, priority := range priorities {
		next := slices.Index(routes, t.last[priority]) + 1
		for j := range routes {
			l := t.state(lane{routes[(next+j)%len(routes)], priority})
			l.questions = 0 // of a take that was broken off
			all[i] = append(all[i], l)
		}
	}
	return all
}

// ask asks lanes, the higher priority first, until there is enough or no lane is left that could have a message.
func (t *taker) ask(ctx context.Context, taking *take, lanes [][]*laneState) error {
	for _, same := range lanes {
		for {
			asked, err := t.askSome(taking, same)
			if err != nil {
				return err
			}
			if len(asked) == 0 {
				break
			}
			if err := t.answers(ctx, taking, asked); err != nil {
				return err
			}
		}
	}
	return nil
}

// askSome asks lanes in their turn: those that had messages no more often than there is need, and a few of the others with them.
func (t *taker) askSome(taking *take, lanes []*laneState) ([]*laneState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	need, cold := taking.need-len(taking.got), 0
	if need <= 0 {
		return nil, nil
	}
	var asked, hot []*laneState
	now := time.Now()
	for _, l := range lanes {
		if len(hot) == need || cold == askAtOnce {
			break
		}
		switch {
		case !l.askable(now):
			continue
		case l.hot:
			hot = append(hot, l)
		default:
			cold++
		}
		asked = append(asked, l)
	}
	for i := 0; len(hot) > 0 && len(hot) < need && i < need-len(hot); i++ {
		asked = append(asked, hot[i%len(hot)])
	}
	for _, l := range asked {
		l.questions++
		if err := t.request(l, "q", `{"batch":1,"no_wait":true}`); err != nil {
			return nil, err
		}
	}
	return asked, nil
}

// request asks the consumer of a lane. The mutex is held.
func (t *taker) request(l *laneState, kind, body string) error {
	reply := t.inbox + strconv.Itoa(t.generation) + "." + strconv.Itoa(l.number) + "." + kind
	subject := "$JS.API.CONSUMER.MSG.NEXT." + workStream + "." + l.consumer()
	if err := t.work.broker.nc.PublishRequest(subject, reply, []byte(body)); err != nil {
		return readError("ask for work", err)
	}
	return nil
}

// answers waits until all questions have an answer, or the server seems to be away.
func (t *taker) answers(ctx context.Context, taking *take, asked []*laneState) error {
	deadline := time.Now().Add(askWait)
	for ctx.Err() == nil {
		if t.answered(asked, time.Now().After(deadline)) {
			return nil
		}
		t.wait(ctx, taking, time.Until(deadline))
	}
	return ctx.Err()
}

func (t *taker) answered(asked []*laneState, giveUp bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range asked {
		if l.questions == 0 {
			continue
		}
		if !giveUp {
			return false
		}
		l.questions, l.hot, l.away = 0, false, time.Now().Add(awayWait)
	}
	return true
}

// stand makes a standing request to each lane that has none.
func (t *taker) stand(lanes [][]*laneState) error {
	expires := standFor(len(lanes) * len(lanes[0]))
	body := fmt.Sprintf(`{"batch":1,"expires":%d}`, expires)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for _, same := range lanes {
		for _, l := range same {
			if now.Before(l.standing) || now.Before(l.away) {
				continue
			}
			l.standing = now.Add(expires + standMargin)
			if err := t.request(l, "s", body); err != nil {
				return err
			}
		}
	}
	return nil
}

// standMargin is how much later than the server's the taker's own clock ends a standing request that was never answered.
const standMargin = time.Second

// untilRenewal is when a lane must be asked again although no server said anything.
func (t *taker) untilRenewal(lanes [][]*laneState) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	first := time.Now().Add(time.Minute)
	for _, same := range lanes {
		for _, l := range same {
			if due := later(l.standing, l.away); due.Before(first) {
				first = due
			}
		}
	}
	return max(time.Until(first), time.Millisecond)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (t *taker) wait(ctx context.Context, taking *take, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-taking.wake:
	case <-timer.C:
	case <-ctx.Done():
	}
}
