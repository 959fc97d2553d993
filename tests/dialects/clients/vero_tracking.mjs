// Vero's own SDK in Node: node vero_tracking.mjs BASE_URL KEY 'JSON list of [method, argument]'
// Prints for each call null, or the message of the error it threw. Only the base URL is not the vendor's.
import sdk from '@getvero/tracking';

const [baseUrl, key, calls] = process.argv.slice(2);
const tracker = sdk.default;
tracker.init({ trackingApiKey: key, trackingApiBaseUrl: baseUrl });

const results = [];
for (const [method, argument] of JSON.parse(calls)) {
  const [group, name] = method.split('.');
  try {
    await tracker[group][name](argument);
    results.push(null);
  } catch (error) {
    results.push(error.message);
  }
}
console.log(JSON.stringify(results));
