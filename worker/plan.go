package worker

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	cron "github.com/netresearch/go-cron"

	"github.com/attune-run/attune/queue"
)

// What happens to ticks that no scheduler was there for.
const (
	MissedSkip = "skip" // they are gone
	MissedOnce = "once" // the last of them is submitted
	MissedAll  = "all"  // each is submitted, the last missedMax of them
)

// missedMax bounds what MissedAll makes up for.
const missedMax = 1000

// plan is when a schedule's ticks are.
type plan struct {
	times  cron.Schedule // nil for every
	every  time.Duration
	zone   *time.Location
	missed string
	daily  bool // at certain hours, not at every one
}

// cronParser reads crontab(5): five fields, a day that matches either day field, and descriptors.
var cronParser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor | cron.DowOrDom)

var scheduleName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// parseSchedule checks what a schedule says about itself; its request is checked by whoever submits it.
func parseSchedule(text queue.ScheduleText) (plan, error) {
	p := plan{missed: text.Missed}
	if !scheduleName.MatchString(text.Name) {
		return p, fmt.Errorf("schedule %q: a name is up to 128 letters, digits, _ and -", text.Name)
	}
	fail := func(err error) (plan, error) { return p, fmt.Errorf("schedule %s: %w", text.Name, err) }
	switch p.missed {
	case "":
		p.missed = MissedSkip
	case MissedSkip, MissedOnce, MissedAll:
	default:
		return fail(fmt.Errorf("missed %q: write skip, once or all", text.Missed))
	}
	var err error
	if p.zone, err = loadZone(text.Zone); err != nil {
		return fail(err)
	}
	if rest, ok := strings.CutPrefix(text.Cron, "@every "); ok {
		p.every, err = time.ParseDuration(strings.TrimSpace(rest))
		if err != nil || p.every < time.Second {
			return fail(fmt.Errorf("%q: write it like \"@every 90s\", 1 s at least", text.Cron))
		}
		return p, nil
	}
	if strings.Contains(text.Cron, "TZ=") {
		return fail(errors.New("name the time zone in zone, not in the expression"))
	}
	if p.times, err = cronParser.Parse(text.Cron); err != nil {
		return fail(fmt.Errorf("cron %q: %w", text.Cron, err))
	}
	fields := strings.Fields(text.Cron)
	p.daily = len(fields) == 5 && !strings.HasPrefix(fields[1], "*")
	if p.next(time.Now()).IsZero() {
		return fail(fmt.Errorf("cron %q: it never comes", text.Cron))
	}
	return p, nil
}

func loadZone(name string) (*time.Location, error) {
	if name == "Local" {
		return nil, errors.New("zone Local: name the zone, for it means another on each machine")
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("zone %q is no name of the time zone database, like Europe/Berlin", name)
	}
	return zone, nil
}

// next is the first tick after t; zero when there is none within the library's horizon of some years. A time of day that the clocks
// jump over comes as much later as they jump; one that comes twice ticks the first time alone, unless it is of every hour.
func (p plan) next(t time.Time) time.Time {
	if p.every > 0 {
		return t.UTC().Truncate(p.every).Add(p.every)
	}
	next := p.times.Next(t.In(p.zone))
	for p.daily && !next.IsZero() && repeated(next) {
		next = p.times.Next(next)
	}
	if next.IsZero() {
		return next
	}
	return next.UTC()
}

// back is longer than any clock is put back.
const back = 3 * time.Hour

// repeated tells whether the clocks of t's location showed the same time before, because they were put back.
func repeated(t time.Time) bool {
	_, offset := t.Zone()
	_, before := t.Add(-back).Zone()
	earlier := t.Add(-time.Duration(before-offset) * time.Second)
	return before > offset && earlier.Format(time.DateTime) == t.Format(time.DateTime)
}

// isTick starts before the clocks may have jumped.
func (p plan) isTick(at time.Time) bool {
	from := at.Add(-time.Second)
	if p.every == 0 {
		from = at.Add(-back)
	}
	tick := p.next(from)
	for !tick.IsZero() && tick.Before(at) {
		tick = p.next(tick)
	}
	return tick.Equal(at)
}

// due are the ticks after last that are to be submitted now, and the last one of all that have passed. A tick older than
// tolerance was missed.
func (p plan) due(last, now time.Time, tolerance time.Duration) (ticks []time.Time, passed time.Time) {
	var missed []time.Time
	for at := p.next(last); !at.IsZero() && !at.After(now); at = p.next(at) {
		passed = at
		if now.Sub(at) <= tolerance {
			ticks = append(ticks, at)
			continue
		}
		if missed = append(missed, at); len(missed) > missedMax {
			missed = missed[1:]
		}
	}
	switch {
	case p.missed == MissedAll:
		ticks = append(missed, ticks...)
	case p.missed == MissedOnce && len(missed) > 0:
		ticks = append(missed[len(missed)-1:], ticks...)
	}
	return ticks, passed
}
