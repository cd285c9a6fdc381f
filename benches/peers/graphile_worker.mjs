// graphile-worker: jobs that do nothing, enqueued in one transaction while a worker waits that has run some already, from
// its commit until none is left in its table. Prints a line of JSON:
//
//   node graphile_worker.mjs URL JOBS CONCURRENCY LOCAL_QUEUE
import { createRequire } from "node:module";

const require = createRequire(process.env.NODE_FOLDER + "/");
const { run, makeWorkerUtils, Logger } = require("graphile-worker");
const { Pool } = require("pg");

const [url, jobs, concurrency, localQueue] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const pgPool = new Pool({ connectionString: url, max: concurrency + 1 });
const fail = (error) => { throw error; };
pgPool.on("error", fail).on("connect", (client) => client.on("error", fail));
const logger = new Logger(() => () => {});
await pgPool.query("SET client_min_messages = error; DROP SCHEMA IF EXISTS graphile_worker CASCADE");

const utils = await makeWorkerUtils({ pgPool, logger });
await utils.migrate();

let ran = 0;
const runner = await run({
  pgPool,
  noHandleSignals: true,
  taskList: { nothing: () => { ran += 1; } },
  preset: {
    worker: {
      logger,
      concurrentJobs: concurrency,
      localQueue: { size: localQueue },
      // What has waited for nothing goes out together.
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  },
});
let seconds;
// So many jobs run before those that are counted.
for (const count of [2_000, jobs]) {
  ran = 0;
  // One statement, whose answer is short.
  await pgPool.query(
    `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
       SELECT json_populate_record(NULL::graphile_worker.job_spec, '{"identifier": "nothing", "payload": {}}')
       FROM generate_series(1, $1)))`,
    [count],
  );
  const started = process.hrtime.bigint();
  for (let left = true; left; ) {
    await new Promise((wake) => setTimeout(wake, 2));
    if (ran >= count) {
      left = (await pgPool.query("SELECT EXISTS (SELECT FROM graphile_worker._private_jobs) AS left")).rows[0].left;
    }
  }
  seconds = Number(process.hrtime.bigint() - started) / 1e9;
}

await runner.stop();
await utils.release();
await pgPool.query("SET client_min_messages = error; DROP SCHEMA graphile_worker CASCADE");
await pgPool.end();
console.log(JSON.stringify({ rate: Math.round((jobs / seconds) * 10) / 10 }));
