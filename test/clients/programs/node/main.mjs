// Runs the Node client that the first argument names. See programs/golang/main.go.

import readline from 'node:readline';

const server = process.env.SERVER;
const statement = (dialect, operation, number) =>
  process.env[`${dialect}_${operation.toUpperCase()}`].replaceAll('NUMBER', number);
const url = (operation, number) => `http://${server}:80/${operation}?number=${number}`;

// An error event without a listener ends the process.
const logged = (emitter) => emitter.on('error', () => {});

// reconnecting opens a new connection after an error.
const reconnecting = (connect, query) => {
  let conn;
  return async (operation, number) => {
    conn ??= await connect();
    try {
      return await query(conn, operation, number);
    } catch (e) {
      conn = undefined;
      throw e;
    }
  };
};

const grpcCall = async () => {
  const grpc = await import('@grpc/grpc-js');
  const client = new grpc.Client(`${server}:50051`, grpc.credentials.createInsecure());
  const same = (bytes) => bytes;
  return (operation, number) => new Promise((resolve, reject) => {
    const path = `/test.Test/${operation}`;
    if (operation === 'half') {
      let n = 0;
      client.makeServerStreamRequest(path, same, same, Buffer.from(number))
        .on('data', () => n++).on('end', () => resolve(n)).on('error', reject);
      return;
    }
    client.makeUnaryRequest(path, same, same, Buffer.from(number), (e) => (e ? reject(e) : resolve(1)));
  });
};

const http2Request = async () => {
  const http2 = await import('node:http2');
  let session;
  return (operation, number) => new Promise((resolve, reject) => {
    if (!session || session.closed || session.destroyed) {
      session = http2.connect(`https://${server}:8443`, { rejectUnauthorized: false });
      session.on('error', reject);
    }
    const stream = session.request({ ':path': `/${operation}?number=${number}` });
    let size = 0;
    let headers = false;
    stream.on('response', () => { headers = true; });
    stream.on('data', (chunk) => { size += chunk.length; });
    stream.on('error', reject);
    stream.on('end', () => (headers ? resolve(size) : reject(new Error('stream ended without an answer'))));
    stream.on('close', () => reject(new Error('stream closed')));
    stream.end();
  });
};

const httpAgent = async () => {
  const http = await import('node:http');
  return (operation, number) => new Promise((resolve, reject) => {
    http.get(url(operation, number), (response) => {
      let size = 0;
      response.on('data', (chunk) => { size += chunk.length; });
      response.on('error', reject);
      response.on('end', () => (response.statusCode === 200 ? resolve(size) : reject(new Error(response.statusCode))));
    }).on('error', reject);
  });
};

const clients = {
  http: httpAgent,
  http2: http2Request,
  fetch: async () => async (operation, number) => {
    const response = await fetch(url(operation, number));
    if (!response.ok) throw new Error(response.status);
    return (await response.arrayBuffer()).byteLength;
  },
  undici: async () => {
    const { request } = await import('undici');
    return async (operation, number) => {
      const response = await request(url(operation, number));
      if (response.statusCode !== 200) throw new Error(response.statusCode);
      return (await response.body.arrayBuffer()).byteLength;
    };
  },
  axios: async () => {
    const axios = (await import('axios')).default;
    return async (operation, number) => (await axios.get(url(operation, number), { responseType: 'arraybuffer' })).data.length;
  },
  got: async () => {
    const got = (await import('got')).default;
    return async (operation, number) => (await got(url(operation, number)).buffer()).length;
  },
  pg: async () => {
    const pg = (await import('pg')).default;
    const pool = logged(new pg.Pool({ host: server, user: 'app', password: 'app', database: 'app' }));
    return async (operation, number) => (await pool.query(statement('PG', operation, number))).rows.length;
  },
  mysql2: async () => {
    const mysql = (await import('mysql2/promise')).default;
    const pool = mysql.createPool({ host: server, user: 'app', password: 'app', database: 'app' });
    return async (operation, number) => (await pool.query(statement('MY', operation, number)))[0].length;
  },
  ioredis: async () => {
    const { Redis } = await import('ioredis');
    const client = logged(new Redis({ host: server }));
    return async (operation, number) => {
      if (operation === 'slow') await client.blpop(`slow${number}`, 0);
      else await client.set('k', 'v');
      return 1;
    };
  },
  redis: async () => {
    const { createClient } = await import('redis');
    const client = logged(createClient({ url: `redis://${server}:6379` }));
    await client.connect();
    return async (operation, number) => {
      if (operation === 'slow') await client.blPop(`slow${number}`, 0);
      else await client.set('k', 'v');
      return 1;
    };
  },
  amqplib: async () => {
    const amqp = (await import('amqplib')).default;
    const connect = async () => {
      const conn = logged(await amqp.connect(`amqp://guest:guest@${server}`));
      const closed = new Promise((_, reject) => conn.on('close', (e) => reject(e ?? new Error('connection closed'))));
      closed.catch(() => {});
      return { channel: logged(await conn.createChannel()), closed };
    };
    return reconnecting(connect, async ({ channel, closed }, operation) => {
      const { queue } = await Promise.race([closed, channel.assertQueue('', { exclusive: true, autoDelete: true })]);
      if (operation === 'request') channel.sendToQueue(queue, Buffer.from('x'));
      else await Promise.race([closed, new Promise((resolve) => channel.consume(queue, resolve, { noAck: true }).catch(() => {}))]);
      return 1;
    });
  },
  nats: async () => {
    const { connect } = await import('nats');
    let conn;
    return async (operation, number) => {
      conn ??= await connect({ servers: `${server}:4222` });
      await conn.request(`${operation}.${number}`, 'x', { timeout: 10_000 });
      return 1;
    };
  },
  'grpc-js': grpcCall,
};

const run = await clients[process.argv[2]]();
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [operation, number] = line.trim().split(' ');
  try {
    console.log('ok', await run(operation, number));
  } catch (e) {
    const text = `${e.code ?? e.name}: ${e.message} ${e.cause?.message ?? ''}`;
    console.log('error', text.replaceAll(/\s+/g, ' ').slice(0, 300));
  }
}
