package queue

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever is done to a record in whatever order, what is accepted is how an execution goes on: epochs only rise, Done is final,
// attempts are never spent twice.
func TestAnyHistoryIsOne(t *testing.T) {
	now := time.Unix(1000, 0)
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 1))
		r := Record{ID: "a", Digest: "d", State: Queued, Retries: random.IntN(3), OnLost: []string{"", OnLostFail, OnLostRetry}[random.IntN(3)]}
		epochs, claims, released := uint64(0), 0, 0
		for range 40 {
			before := r
			var next Record
			var err error
			kind := random.IntN(8)
			switch kind {
			case 0, 1:
				next, err = r.Claim("w", now)
			case 2:
				next, err = r.Begin(random.IntN(2) == 0)
			case 3:
				next, err = r.Release()
			case 4:
				next, err = r.Retry(now, "again")
			case 5:
				next, err = r.Park(WaitsForTime, now)
			case 6:
				next, err = r.Admit()
			case 7:
				if random.IntN(4) > 0 {
					continue
				}
				next, err = r.Finish(Ending{Outcome: "failed"}, now)
			}
			require.Equal(t, before, r, "the receiver stays")
			if err != nil {
				require.Equal(t, before, next)
				continue
			}
			require.NoError(t, before.Follows(&next), "seed %d: %v → %v", seed, before, next)
			if kind <= 1 {
				claims++
				require.Equal(t, epochs+1, next.Epoch)
				if before.State == Running && !before.Started {
					released++
				}
			}
			if kind == 3 {
				released++
			}
			r, epochs = next, next.Epoch
			require.Equal(t, claims-released, r.Attempt)
			require.Equal(t, r.State == Parked, r.Waits != "")
		}
	}
}

func TestDoneIsFinal(t *testing.T) {
	r, err := Record{ID: "a", State: Queued}.Finish(Ending{Outcome: "canceled", Result: []byte("{}")}, time.Unix(1, 0))
	require.NoError(t, err)
	_, err = r.Claim("w", time.Now())
	assert.ErrorIs(t, err, ErrDone)
	_, err = r.Finish(Ending{Outcome: "succeeded"}, time.Now())
	assert.ErrorIs(t, err, ErrDone)
	_, err = r.Admit()
	assert.ErrorIs(t, err, ErrDone)
	other := r
	assert.Error(t, r.Follows(&other))
}

func TestWhatIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		r    Record
		lost bool
	}{
		"fail by default":              {Record{State: Running, Started: true, Attempt: 1, Epoch: 1}, true},
		"only prepared":                {Record{State: Running, Attempt: 1, Epoch: 1}, false},
		"prepared too often":           {Record{State: Running, Attempt: 1, Epoch: 21}, true},
		"retry":                        {Record{State: Running, Started: true, Attempt: 1, Epoch: 1, OnLost: OnLostRetry}, false},
		"retry, too often":             {Record{State: Running, Started: true, Attempt: LostMax, Epoch: 9, OnLost: OnLostRetry}, true},
		"retry, as often as it is for": {Record{State: Running, Started: true, Attempt: 9, Epoch: 9, Retries: 9, OnLost: OnLostRetry}, false},
		"nobody had it":                {Record{State: Queued}, false},
	} {
		assert.Equal(t, c.lost, c.r.LostForGood(), name)
	}
}

func TestAttempts(t *testing.T) {
	r := Record{ID: "a", State: Queued, Retries: 1}
	r, err := r.Claim("one", time.Now())
	require.NoError(t, err)
	assert.True(t, r.Started)
	r, err = r.Begin(false)
	require.NoError(t, err)
	r, err = r.Claim("two", time.Now())
	require.NoError(t, err)
	assert.Equal(t, 1, r.Attempt, "the first had not started")
	assert.True(t, r.CanRetry())
	r, err = r.Retry(time.Unix(5, 0), "exited with 1")
	require.NoError(t, err)
	_, err = r.Claim("two", time.Now())
	assert.ErrorIs(t, err, ErrParked)
	r, err = r.Admit()
	require.NoError(t, err)
	r, err = r.Claim("two", time.Now())
	require.NoError(t, err)
	assert.Equal(t, 2, r.Attempt)
	assert.EqualValues(t, 3, r.Epoch)
	assert.False(t, r.CanRetry())
}
