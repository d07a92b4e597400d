package worker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/attune-run/attune/executor"
	"github.com/attune-run/attune/queue"
)

// NewSchedule is a standing order to be added.
type NewSchedule struct {
	Name, Cron, Zone, Missed string
	Request                  executor.Request // without id
}

// ScheduleStatus is a schedule as people look at it.
type ScheduleStatus struct {
	queue.Schedule
	queue.ScheduleText
	broken error
	Next   time.Time // zero when it never comes
}

// Trouble is why the schedule submits nothing: its last tick was refused, or it cannot be read. Empty when it does.
func (s ScheduleStatus) Trouble() string {
	if s.broken != nil {
		return s.broken.Error()
	}
	return s.Refused
}

// AddSchedule checks a schedule and stores it; replace puts it over one of its name, from now on. A signed one is pinned to the version of
// its pack that there is now; one that is not takes the newest at each tick.
func (c *Client) AddSchedule(ctx context.Context, n NewSchedule, replace bool) (ScheduleStatus, error) {
	if n.Request.ID != "" || n.Request.NotBefore != "" {
		return ScheduleStatus{}, refuse("leave them out", "the request of a schedule has neither an id nor a time: both are the tick's")
	}
	text := queue.ScheduleText{Schema: queue.ScheduleSchema, Name: n.Name, Cron: n.Cron, Zone: n.Zone, Missed: n.Missed}
	plan, err := parseSchedule(text)
	if err != nil {
		return ScheduleStatus{}, &RefusedError{Err: err, Todo: "five fields as in crontab(5), @hourly, @daily, @weekly, @monthly, @yearly or @every 90s"}
	}
	req := n.Request
	target, err := c.check(ctx, &req)
	if err != nil {
		return ScheduleStatus{}, err
	}
	if text.Request, err = encode(req); err != nil {
		return ScheduleStatus{}, err
	}
	if c.cfg.Key != nil {
		text.Pack = target.pin
	}
	document, err := encode(text)
	if err != nil {
		return ScheduleStatus{}, err
	}
	c.lookAtClock(ctx)
	now := c.cfg.Now().UTC()
	s := queue.Schedule{Text: string(document), CreatedBy: c.who(), CreatedAt: now}
	if c.cfg.Key != nil {
		s.Signature = sign(c.cfg.Key, queue.ScheduleSchema, s.Text)
	}
	if err := c.storeSchedule(ctx, n.Name, s, replace); err != nil {
		return ScheduleStatus{}, err
	}
	line := queue.AuditLine{What: "schedule.add", Action: req.Action, Digest: textDigest(s.Text), Detail: n.Name + ": " + n.Cron}
	return ScheduleStatus{Schedule: s, ScheduleText: text, Next: plan.next(now)}, c.audit(ctx, line)
}

func (c *Client) storeSchedule(ctx context.Context, name string, s queue.Schedule, replace bool) error {
	value, err := encode(s)
	if err != nil {
		return err
	}
	if replace {
		_, err = c.broker.Table(queue.Schedules).Put(ctx, name, value)
	} else {
		_, err = c.broker.Table(queue.Schedules).Create(ctx, name, value)
	}
	if errors.Is(err, queue.ErrExists) {
		return refuse("--replace replaces it", "there is a schedule %s already", name)
	}
	return err
}

// RemoveSchedule takes a schedule away; what it has submitted stays.
func (c *Client) RemoveSchedule(ctx context.Context, name string) error {
	if !scheduleName.MatchString(name) {
		return refuse("", "%q is no name of a schedule", name)
	}
	table := c.broker.Table(queue.Schedules)
	if _, err := table.Get(ctx, name); errors.Is(err, queue.ErrNotFound) {
		return &RefusedError{Err: fmt.Errorf("there is no schedule %s", name), Todo: "`attune-worker schedule ls` shows them", Exit: executor.ExitNotFound}
	} else if err != nil {
		return err
	}
	if err := table.Delete(ctx, name, 0); err != nil {
		return err
	}
	return c.audit(ctx, queue.AuditLine{What: "schedule.rm", Detail: name})
}

// Schedules are all there are, by name.
func (c *Client) Schedules(ctx context.Context) ([]ScheduleStatus, error) {
	var all []ScheduleStatus
	for entry, err := range c.broker.Table(queue.Schedules).List(ctx, "") {
		if err != nil {
			return nil, err
		}
		s := readTimed(entry)
		if s.broken != nil {
			s.text.Name = cmp.Or(s.text.Name, entry.Key)
		}
		all = append(all, ScheduleStatus{s.Schedule, s.text, s.broken, s.next})
	}
	slices.SortFunc(all, func(a, b ScheduleStatus) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// MarshalJSON writes what the schedule says and how it stands.
func (s ScheduleStatus) MarshalJSON() ([]byte, error) {
	type standing struct {
		queue.ScheduleText
		Signed    bool      `json:"signed"`
		CreatedBy string    `json:"created_by"`
		CreatedAt time.Time `json:"created_at"`
		LastTick  time.Time `json:"last_tick,omitzero"`
		Next      time.Time `json:"next,omitzero"`
		Trouble   string    `json:"trouble,omitempty"`
	}
	return json.Marshal(standing{s.ScheduleText, s.Signature != nil, s.CreatedBy, s.CreatedAt, s.LastTick, s.Next, s.Trouble()})
}

// Action is what the schedule submits, as results call it.
func (s ScheduleStatus) Action() string {
	var request struct {
		Action string           `json:"action"`
		Script *executor.Script `json:"script"`
	}
	if json.Unmarshal(s.Request, &request) != nil || request.Action == "" {
		return "script:inline"
	}
	return request.Action
}
