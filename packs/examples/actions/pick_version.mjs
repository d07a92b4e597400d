import { readFileSync } from 'node:fs';
import semver from 'semver';

const { versions, range, registry_token: token } = JSON.parse(readFileSync(0, 'utf8'));

const invalid = versions.filter((version) => !semver.valid(version));
if (invalid.length > 0) {
  console.error(`not versions: ${invalid.join(', ')}`);
  process.exit(2);
}
console.log(JSON.stringify({
  picked: semver.maxSatisfying(versions, range),
  candidates: versions.filter((version) => semver.satisfies(version, range)).sort(semver.rcompare),
  authenticated: Boolean(token),
}));
