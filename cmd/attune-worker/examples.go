package main

// Examples of the commands that need no more words than these.

// Help shows examples under `serve --help`.
func (serveCmd) Help() string {
	return `Examples:
  attune-worker serve                                            (a server of its own, in this process)
  attune-worker serve --nats nats://a:4222,nats://b:4222 --labels zone=a --concurrency 8
  attune-worker serve --trusted-keys deploy=deploy.key.pub --allow-actions "ops.*" --http 9464`
}

// Help shows examples under `status --help`.
func (statusCmd) Help() string {
	return `Examples:
  attune-worker status 0197a6f0-0000-7000-8000-000000000001
  attune-worker status nightly-1 -o json        (by its idempotency key)`
}

// Help shows examples under `logs --help`.
func (logsCmd) Help() string {
	return `Examples:
  attune-worker logs nightly-1 --follow`
}

// Help shows examples under `result --help`.
func (resultCmd) Help() string {
	return `Examples:
  attune-worker result nightly-1 --wait | jq .status`
}

// Help shows examples under `artifacts --help`.
func (artifactsCmd) Help() string {
	return `Examples:
  attune-worker artifacts list nightly-1
  attune-worker artifacts get nightly-1 --into out`
}

// Help shows examples under `artifacts list --help`.
func (artifactsListCmd) Help() string {
	return `Examples:
  attune-worker artifacts list nightly-1 -o json`
}

// Help shows examples under `artifacts get --help`.
func (artifactsGetCmd) Help() string {
	return `Examples:
  attune-worker artifacts get nightly-1 report.pdf --into out`
}

// Help shows examples under `cancel --help`.
func (cancelCmd) Help() string {
	return `Examples:
  attune-worker cancel nightly-1 nightly-2`
}

// Help shows examples under `ls --help`.
func (listCmd) Help() string {
	return `Examples:
  attune-worker ls --state running
  attune-worker ls --action "ops.*" --outcome failed --since 24h -o json
  attune-worker ls --unroutable`
}

// Help shows examples under `workers --help`.
func (workersCmd) Help() string {
	return `Examples:
  attune-worker workers
  attune-worker workers -o json`
}

// Help shows examples under `packs --help`.
func (packsCmd) Help() string {
	return `Examples:
  attune-worker packs push ./packs/mine
  attune-worker packs ls --actions`
}

// Help shows examples under `packs push --help`.
func (packsPushCmd) Help() string {
	return `Examples:
  attune-worker packs push ./packs/mine ./packs/ops`
}

// Help shows examples under `packs ls --help`.
func (packsListCmd) Help() string {
	return `Examples:
  attune-worker packs ls
  attune-worker packs ls --actions`
}

// Help shows examples under `packs rm --help`.
func (packsRemoveCmd) Help() string {
	return `Examples:
  attune-worker packs rm mine@1.0.0`
}

// Help shows examples under `schedule --help`.
func (scheduleCmd) Help() string {
	return `Examples:
  attune-worker schedule add tidy '30 3 * * *' ops.tidy --zone Europe/Berlin
  attune-worker schedule ls`
}

// Help shows examples under `schedule add --help`.
func (scheduleAddCmd) Help() string {
	return `Examples:
  attune-worker schedule add tidy '30 3 * * *' ops.tidy --zone Europe/Berlin --missed once
  attune-worker schedule add ping '@every 90s' ops.ping -p host=example.org --replace`
}

// Help shows examples under `schedule ls --help`.
func (scheduleListCmd) Help() string {
	return `Examples:
  attune-worker schedule ls`
}

// Help shows examples under `schedule rm --help`.
func (scheduleRemoveCmd) Help() string {
	return `Examples:
  attune-worker schedule rm tidy`
}

// Help shows examples under `audit --help`.
func (auditCmd) Help() string {
	return `Examples:
  attune-worker audit --since 24h
  attune-worker audit --follow | jq -c .what`
}

// Help shows examples under `keys --help`.
func (keysCmd) Help() string {
	return `Examples:
  attune-worker keys new deploy.key`
}

// Help shows examples under `keys new --help`.
func (keysNewCmd) Help() string {
	return `Examples:
  attune-worker keys new deploy.key        (deploy.key.pub is for serve --trusted-keys)`
}

// Help shows examples under `dlq --help`.
func (dlqCmd) Help() string {
	return `Examples:
  attune-worker dlq ls
  attune-worker dlq retry --all`
}

// Help shows examples under `dlq ls --help`.
func (dlqListCmd) Help() string {
	return `Examples:
  attune-worker dlq ls -o json`
}

// Help shows examples under `dlq show --help`.
func (dlqShowCmd) Help() string {
	return `Examples:
  attune-worker dlq show 0197a6f0-0000-7000-8000-000000000001`
}

// Help shows examples under `dlq retry --help`.
func (dlqRetryCmd) Help() string {
	return `Examples:
  attune-worker dlq retry 0197a6f0-0000-7000-8000-000000000001
  attune-worker dlq retry --all`
}

// Help shows examples under `dlq drop --help`.
func (dlqDropCmd) Help() string {
	return `Examples:
  attune-worker dlq drop --all`
}

// Help shows examples under `queue --help`.
func (queueCmd) Help() string {
	return `Examples:
  attune-worker queue info
  attune-worker queue promote --store /var/lib/attune/pool --nats nats://a:4222`
}

// Help shows examples under `queue info --help`.
func (queueInfoCmd) Help() string {
	return `Examples:
  attune-worker queue info -o json`
}

// Help shows examples under `version --help`.
func (versionCmd) Help() string {
	return `Examples:
  attune-worker version`
}

// Help shows examples under `man --help`.
func (manCmd) Help() string {
	return `Examples:
  attune-worker man | man -l -
  attune-worker man --format markdown`
}
