"""Runs the Python client that the first argument names. See programs/golang/main.go."""

import asyncio
import inspect
import os
import sys

SERVER = os.environ["SERVER"]


def statement(dialect, operation, number):
    return os.environ[dialect + "_" + operation.upper()].replace("NUMBER", number)


def url(operation, number):
    return f"http://{SERVER}:80/{operation}?number={number}"


# HTTP


def with_requests():
    import requests

    session = requests.Session()

    def run(operation, number):
        response = session.get(url(operation, number))
        response.raise_for_status()
        return len(response.content)

    return run


def with_urllib3():
    import urllib3

    pool = urllib3.PoolManager()

    def run(operation, number):
        response = pool.request("GET", url(operation, number))
        if response.status != 200:
            raise RuntimeError(response.status)
        return len(response.data)

    return run


def with_httpx():
    import httpx

    client = httpx.Client()

    def run(operation, number):
        response = client.get(url(operation, number))
        response.raise_for_status()
        return len(response.content)

    return run


def with_aiohttp():
    import aiohttp

    session = None

    async def run(operation, number):
        nonlocal session
        session = session or aiohttp.ClientSession()
        async with session.get(url(operation, number)) as response:
            response.raise_for_status()
            return len(await response.read())

    return run


def with_pycurl():
    import pycurl

    curl = pycurl.Curl()

    def run(operation, number):
        chunks = []
        curl.setopt(pycurl.URL, url(operation, number))
        curl.setopt(pycurl.FAILONERROR, True)
        curl.setopt(pycurl.WRITEFUNCTION, lambda chunk: chunks.append(len(chunk)))
        curl.perform()
        return sum(chunks)

    return run


def with_http_client():
    import http.client

    conn = http.client.HTTPConnection(SERVER, 80)

    def run(operation, number):
        try:
            conn.request("GET", f"/{operation}?number={number}")
            return len(conn.getresponse().read())
        except Exception:
            conn.close()  # opens a new connection with the next request
            raise

    return run


# SQL


def reconnecting(connect, query):
    """Opens a new connection after an error."""
    conn = None

    def run(operation, number):
        nonlocal conn
        conn = conn or connect()
        try:
            return query(conn, operation, number)
        except Exception:
            conn = None
            raise

    return run


def dbapi(dialect):
    def query(conn, operation, number):
        cursor = conn.cursor()
        cursor.execute(statement(dialect, operation, number))
        return len(cursor.fetchall())

    return query


POSTGRES = f"host={SERVER} dbname=app user=app password=app"
MARIADB = {"host": SERVER, "user": "app", "password": "app", "database": "app", "autocommit": True}


def with_psycopg():
    import psycopg

    return reconnecting(lambda: psycopg.connect(POSTGRES, autocommit=True), dbapi("PG"))


def with_psycopg2():
    import psycopg2

    def connect():
        conn = psycopg2.connect(POSTGRES)
        conn.autocommit = True
        return conn

    return reconnecting(connect, dbapi("PG"))


def with_asyncpg():
    import asyncpg

    pool = None

    async def run(operation, number):
        nonlocal pool
        pool = pool or await asyncpg.create_pool(host=SERVER, user="app", password="app", database="app", min_size=1, max_size=4)
        return len(await pool.fetch(statement("PG", operation, number)))

    return run


def with_sqlalchemy(address, dialect):
    import sqlalchemy

    engine = sqlalchemy.create_engine(address)

    def run(operation, number):
        with engine.connect() as conn:
            return len(conn.execute(sqlalchemy.text(statement(dialect, operation, number))).fetchall())

    return run


def with_pymysql():
    import pymysql

    return reconnecting(lambda: pymysql.connect(**MARIADB), dbapi("MY"))


def with_mysqlclient():
    import MySQLdb

    return reconnecting(lambda: MySQLdb.connect(host=SERVER, user="app", passwd="app", db="app"), dbapi("MY"))


# Others


def with_redis():
    import redis

    client = redis.Redis(host=SERVER)

    def run(operation, number):
        if operation == "slow":
            client.blpop("slow" + number)
        else:
            client.set("k", "v")
        return 1

    return run


def with_pymemcache():
    from pymemcache.client.base import Client

    client = Client((SERVER, 11211), no_delay=True)

    def run(operation, number):
        client.set("k", "v", noreply=False)
        return 1

    return run


def with_pika():
    import pika

    def connect():
        return pika.BlockingConnection(pika.ConnectionParameters(SERVER)).channel()

    def query(channel, operation, number):
        name = channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
        if operation == "request":
            channel.basic_publish("", name, b"x")
            return 1
        for _ in channel.consume(name, auto_ack=True):
            return 1
        raise RuntimeError("deliveries ended")

    return reconnecting(connect, query)


def with_grpcio():
    import grpc

    channel = grpc.insecure_channel(f"{SERVER}:50051")

    def run(operation, number):
        if operation == "half":
            return sum(1 for _ in channel.unary_stream("/test.Test/half")(number.encode()))
        channel.unary_unary("/test.Test/" + operation)(number.encode())
        return 1

    return run


CLIENTS = {
    "requests": with_requests,
    "urllib3": with_urllib3,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
    "pycurl": with_pycurl,
    "http.client": with_http_client,
    "psycopg": with_psycopg,
    "psycopg2": with_psycopg2,
    "asyncpg": with_asyncpg,
    "sqlalchemy-postgresql": lambda: with_sqlalchemy(f"postgresql+psycopg2://app:app@{SERVER}/app", "PG"),
    "sqlalchemy-mariadb": lambda: with_sqlalchemy(f"mysql+pymysql://app:app@{SERVER}/app", "MY"),
    "pymysql": with_pymysql,
    "mysqlclient": with_mysqlclient,
    "redis": with_redis,
    "pymemcache": with_pymemcache,
    "pika": with_pika,
    "grpcio": with_grpcio,
}


async def main():
    run = CLIENTS[sys.argv[1]]()
    loop = asyncio.get_running_loop()
    # The loop of an asyncio client runs between the operations too, those of others do not
    # need it.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        operation, _, number = line.strip().partition(" ")
        try:
            size = run(operation, number)
            if inspect.isawaitable(size):
                size = await size
            print("ok", size, flush=True)
        except Exception as e:
            text = f"{type(e).__module__}.{type(e).__name__}: {e}"
            print("error", " ".join(text.split())[:300], flush=True)


asyncio.run(main())
