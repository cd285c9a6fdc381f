// graphile-worker: jobs that do nothing, from its start until none is left in its table. Prints a line of JSON:
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
for (let left = jobs; left > 0; left -= 2_000) {
  await utils.addJobs(Array.from({ length: Math.min(left, 2_000) }, () => ({ identifier: "nothing", payload: {} })));
}

let ran = 0;
const started = process.hrtime.bigint();
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
for (let left = true; left; ) {
  await new Promise((wake) => setTimeout(wake, 2));
  if (ran >= jobs) {
    left = (await pgPool.query("SELECT EXISTS (SELECT FROM graphile_worker._private_jobs) AS left")).rows[0].left;
  }
}
const seconds = Number(process.hrtime.bigint() - started) / 1e9;

await runner.stop();
await utils.release();
await pgPool.query("SET client_min_messages = error; DROP SCHEMA graphile_worker CASCADE");
await pgPool.end();
console.log(JSON.stringify({ rate: Math.round((jobs / seconds) * 10) / 10 }));
