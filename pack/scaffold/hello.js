// Parameters come as one JSON document on stdin.
const parameters = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify({ greeting: `Hello, ${parameters.name}!` }));
