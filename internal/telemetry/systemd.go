package telemetry

import (
	"context"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Systemd tells the service manager that started this process how it goes (sd_notify(3)). Without one it tells nobody.
type Systemd struct{ Log *slog.Logger }

// Ready says that work is taken from now on.
func (s Systemd) Ready(status string) { s.notify(daemon.SdNotifyReady + "\nSTATUS=" + status) }

// Stopping says that no more work is taken.
func (s Systemd) Stopping(status string) { s.notify(daemon.SdNotifyStopping + "\nSTATUS=" + status) }

// Watch sends the keep-alives that the unit's WatchdogSec asks for, as long as alive says so, until the context ends. A broker that
// is away is no reason to stop them: restarting would not bring it back.
func (s Systemd) Watch(ctx context.Context, alive func() bool) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.Log.Warn("watchdog", "error", err)
	}
	if err != nil || interval == 0 {
		return
	}
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		if alive() {
			s.notify(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s Systemd) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.Log.Warn("tell the service manager", "error", err)
	}
}
