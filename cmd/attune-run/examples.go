package main

// Examples of the commands that need no more words than these.

// Help shows examples under `detect --help`.
func (detectCmd) Help() string {
	return `Examples:
  attune-run detect
  attune-run detect --output json`
}

// Help shows examples under `runtimes --help`.
func (runtimesCmd) Help() string {
	return `Examples:
  attune-run runtimes
  attune-run runtimes --explain        (whose specification won, and the interpreters found)`
}

// Help shows examples under `explain --help`.
func (explainCmd) Help() string {
	return `Examples:
  attune-run explain examples.markdown_report
  attune-run explain ./report.py --day 2026-01-01`
}

// Help shows examples under `config --help`.
func (configCmd) Help() string {
	return `Examples:
  attune-run config
  ATTUNE_CACHE=/var/cache/attune attune-run config --output json`
}

// Help shows examples under `version --help`.
func (versionCmd) Help() string {
	return `Examples:
  attune-run version`
}

// Help shows examples under `doctor --help`.
func (doctorCmd) Help() string {
	return `Examples:
  attune-run doctor
  attune-run doctor --require strict        (exits with 1 where this machine has less)`
}

// Help shows examples under `pack --help`.
func (packCmd) Help() string {
	return `Examples:
  attune-run pack list
  attune-run pack new mine && attune-run pack test packs/mine`
}

// Help shows examples under `pack list --help`.
func (packListCmd) Help() string {
	return `Examples:
  attune-run pack list
  attune-run pack list --packs ./packs --output json`
}

// Help shows examples under `pack show --help`.
func (packShowCmd) Help() string {
	return `Examples:
  attune-run pack show core
  attune-run pack show core.echo`
}

// Help shows examples under `pack validate --help`.
func (packValidateCmd) Help() string {
	return `Examples:
  attune-run pack validate
  attune-run pack validate ./packs/mine`
}

// Help shows examples under `pack sign --help`.
func (packSignCmd) Help() string {
	return `Examples:
  attune-run pack sign ./packs/mine --key key.pem`
}

// Help shows examples under `pack verify --help`.
func (packVerifyCmd) Help() string {
	return `Examples:
  attune-run pack verify mine --trusted-key key.pem.pub`
}

// Help shows examples under `pack keygen --help`.
func (packKeygenCmd) Help() string {
	return `Examples:
  attune-run pack keygen key.pem`
}

// Help shows examples under `env --help`.
func (envCmd) Help() string {
	return `Examples:
  attune-run env list
  attune-run env prune --max-size 10G --max-age 720h`
}

// Help shows examples under `env list --help`.
func (envListCmd) Help() string {
	return `Examples:
  attune-run env list
  attune-run env list --output json`
}

// Help shows examples under `env show --help`.
func (envShowCmd) Help() string {
	return `Examples:
  attune-run env show 3f9a`
}

// Help shows examples under `env path --help`.
func (envPathCmd) Help() string {
	return `Examples:
  attune-run env path examples.markdown_report
  attune-run env path ./report.py`
}

// Help shows examples under `env key --help`.
func (envKeyCmd) Help() string {
	return `Examples:
  attune-run env key examples.markdown_report        (a key for a CI system's cache)`
}

// Help shows examples under `env explain --help`.
func (envExplainCmd) Help() string {
	return `Examples:
  attune-run env explain examples.markdown_report`
}

// Help shows examples under `env du --help`.
func (envDuCmd) Help() string {
	return `Examples:
  attune-run env du
  attune-run env du --all`
}

// Help shows examples under `env verify --help`.
func (envVerifyCmd) Help() string {
	return `Examples:
  attune-run env verify
  attune-run env verify --repair 3f9a`
}

// Help shows examples under `env prune --help`.
func (envPruneCmd) Help() string {
	return `Examples:
  attune-run env prune --max-size 10G
  attune-run env prune --max-age 720h --dry-run`
}

// Help shows examples under `env remove --help`.
func (envRemoveCmd) Help() string {
	return `Examples:
  attune-run env remove 3f9a`
}

// Help shows examples under `env export --help`.
func (envExportCmd) Help() string {
	return `Examples:
  attune-run env export examples.markdown_report --output envs.tar.gz`
}

// Help shows examples under `env import --help`.
func (envImportCmd) Help() string {
	return `Examples:
  attune-run env import envs.tar.gz`
}

// Help shows examples under `lambda --help`.
func (lambdaCmd) Help() string {
	return `Examples:
  attune-run lambda invoke --local --event event.json fn.zip`
}
