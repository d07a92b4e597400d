package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/attune-run/attune/queue"
)

func moments(t *testing.T, zone string, texts ...string) []time.Time {
	t.Helper()
	location, err := time.LoadLocation(zone)
	require.NoError(t, err)
	var all []time.Time
	for _, text := range texts {
		at, err := time.ParseInLocation("2006-01-02 15:04:05", text, location)
		require.NoError(t, err)
		all = append(all, at.UTC())
	}
	return all
}

func scheduled(t *testing.T, cron, zone, missed string) plan {
	t.Helper()
	p, err := parseSchedule(queue.ScheduleText{Name: "s", Cron: cron, Zone: zone, Missed: missed})
	require.NoError(t, err)
	return p
}

func TestTicksFollowTheClocksOfTheirZone(t *testing.T) {
	const berlin = "Europe/Berlin" // 2026: forward on March 29th at 02:00, back on October 25th at 03:00
	for name, c := range map[string]struct {
		cron  string
		from  string
		ticks []string // in UTC
	}{
		"noon keeps its hour":          {"0 12 * * *", "2026-03-28 11:00:00", []string{"2026-03-28 11:00:00", "2026-03-29 10:00:00", "2026-03-30 10:00:00"}},
		"a time that is skipped":       {"30 2 * * *", "2026-03-28 12:00:00", []string{"2026-03-29 01:30:00", "2026-03-30 00:30:00"}},
		"a time that comes twice":      {"30 2 * * *", "2026-10-24 12:00:00", []string{"2026-10-25 00:30:00", "2026-10-26 01:30:00"}},
		"every hour, twice too":        {"30 * * * *", "2026-10-25 00:30:00", []string{"2026-10-24 22:30:00", "2026-10-24 23:30:00", "2026-10-25 00:30:00", "2026-10-25 01:30:00"}},
		"a day of the month or a week": {"0 0 13 * 5", "2026-11-05 00:00:00", []string{"2026-11-05 23:00:00", "2026-11-12 23:00:00", "2026-11-19 23:00:00"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := scheduled(t, c.cron, berlin, "")
			at := moments(t, berlin, c.from)[0].Add(-time.Second)
			for _, want := range moments(t, "UTC", c.ticks...) {
				at = p.next(at)
				assert.Equal(t, want, at)
				assert.True(t, p.isTick(at), at)
				assert.False(t, p.isTick(at.Add(time.Minute)), at)
			}
		})
	}
	every := scheduled(t, "@every 90s", "", "")
	assert.Equal(t, moments(t, "UTC", "2026-01-01 00:01:30")[0], every.next(moments(t, "UTC", "2026-01-01 00:00:00")[0]))
}

func TestMissedTicks(t *testing.T) {
	times := moments(t, "UTC", "2026-01-01 00:00:30", "2026-01-01 05:00:10")
	hours := moments(t, "UTC", "2026-01-01 01:00:00", "2026-01-01 02:00:00", "2026-01-01 03:00:00", "2026-01-01 04:00:00", "2026-01-01 05:00:00")
	for missed, want := range map[string][]time.Time{"": hours[4:], "skip": hours[4:], "once": hours[3:], "all": hours} {
		ticks, passed := scheduled(t, "@hourly", "", missed).due(times[0], times[1], time.Minute)
		assert.Equal(t, want, ticks, missed)
		assert.Equal(t, hours[4], passed)
	}
	ticks, _ := scheduled(t, "@every 1s", "", "all").due(times[0], times[1], time.Minute)
	assert.Len(t, ticks, missedMax+61)
}

func TestSchedulesThatAreNone(t *testing.T) {
	for _, text := range []queue.ScheduleText{
		{Name: "a b", Cron: "@hourly"}, {Name: "s", Cron: "61 * * * *"}, {Name: "s", Cron: "* * *"}, {Name: "s", Cron: "0 0 30 2 *"},
		{Name: "s", Cron: "@every 10ms"}, {Name: "s", Cron: "TZ=UTC 0 0 * * *"}, {Name: "s", Cron: "@hourly", Zone: "Berlin"},
		{Name: "s", Cron: "@hourly", Zone: "Local"}, {Name: "s", Cron: "@hourly", Missed: "never"},
	} {
		_, err := parseSchedule(text)
		assert.Error(t, err, "%+v", text)
	}
}
