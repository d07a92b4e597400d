package manpage

import (
	"fmt"
	"io"
	"strconv"
	"time"
)

// Print writes a page as "roff" or "markdown". epoch is the page's date, in seconds (SOURCE_DATE_EPOCH, reproducible-builds.org); empty is
// today.
func Print(w io.Writer, p Page, format, epoch string) error {
	date := time.Now().UTC()
	if epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH=%s is no number of seconds", epoch)
		}
		date = time.Unix(seconds, 0).UTC()
	}
	switch format {
	case "roff":
		return p.Roff(w, date)
	case "markdown":
		return p.Markdown(w)
	}
	return fmt.Errorf("%q is no format of a manual: write roff or markdown", format)
}
