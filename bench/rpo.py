"""How much would be lost with a PostgreSQL server whose log hikae receives: the age of the last commit that a recovery would bring
back, at random moments under load."""

import datetime
import json
import os
import random
import signal
import subprocess
import time

from cluster import Cluster
from measure import Cost, Failed
from physical import GRANTS

SECONDS = 60


def rpo(bench):
    """pgbench with 2 clients at scale 10 while the log is received: the age of the last commit in the repository, at random moments."""
    hikae = next((tool for tool in bench.tools if tool.name == "hikae"), None)
    if hikae is None:
        return
    seconds = max(4, bench.scaled(SECONDS))
    for _ in range(bench.rounds(1)):
        with Cluster(full_page_writes="on", fsync="on", autovacuum="on") as server:
            try:
                measure(bench, hikae.program, server, seconds)
            except (Failed, subprocess.CalledProcessError) as error:
                bench.failed("rpo", hikae, error)


def measure(bench, program, server, seconds):
    server.sql(*GRANTS)
    room = bench.room()
    with open(f"{room}/hikae.toml", "w") as file:
        file.write(f'[repository.main]\nstore = "{room}/store"\nunlock = {{ key_file = "{room}/key" }}\n\n'
                   f'[source.main]\nkind = "postgresql-cluster"\nconnection = "{server.connection}"\n')
    hikae = [program, "--config", f"{room}/hikae.toml"]
    env = {**os.environ, "HOME": room, "XDG_CACHE_HOME": f"{room}/cache"}
    for verb in ("init", "backup"):
        subprocess.run([*hikae, verb], check=True, capture_output=True, env=env)
    pgbench = [f"{server.bin}/pgbench", "-h", server.directory, "-U", "bench"]
    server.call([*pgbench, "-i", "-q", "-s", "10", "bench"])
    with open(f"{room}/said", "wb") as said:
        receiver = subprocess.Popen([*hikae, "pg", "receive", "main", "--create-slot"], stdout=said, stderr=said, env=env)
        try:
            wait_for_receiver(server, receiver, said.name)
            load = subprocess.Popen([*pgbench, "-n", "-c", "2", "-T", str(seconds + 5), "bench"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(3)
            ages, started = [], time.monotonic()
            while time.monotonic() - started < seconds:
                time.sleep(random.uniform(0, 0.3))
                ages.append(age(hikae, env))
            load.wait()
        finally:
            receiver.send_signal(signal.SIGTERM)
            _, status, usage = os.wait4(receiver.pid, 0)
            receiver.returncode = os.waitstatus_to_exitcode(status)
    if receiver.returncode != 0:
        raise Failed(f"the receiver ended with {receiver.returncode}: {open(said.name).read()[-300:]}")
    ages.sort()
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
    bench.results.input("rpo", f"pgbench, scale 10, 2 clients for {seconds} s, {len(ages)} moments; CPU and peak are the receiver's", len(ages))
    for name, share in [("age, median", 0.5), ("age, 99 %", 0.99), ("age, most", 1)]:
        found = ages[min(len(ages) - 1, int(share * len(ages)))]
        bench.results.add("rpo", name, "hikae", Cost(found, cpu, peak))
        print(f"  rpo, {name}: {found:.2f} s of {len(ages)} moments", flush=True)


def wait_for_receiver(server, receiver, said):
    for _ in range(600):
        if server.sql("SELECT count(*) FROM pg_stat_replication") != "0":
            return
        if receiver.poll() is not None:
            break
        time.sleep(0.1)
    raise Failed(f"the receiver does not come: {open(said).read()[-300:]}")


def age(hikae, env):
    """Seconds since the last commit that the repository holds; not less, because the time that it takes to look is counted too."""
    shown = subprocess.run([*hikae, "pg", "window", "main", "--json"], check=True, capture_output=True, env=env).stdout
    interval = json.loads(shown)["result"][0]["window"]["intervals"][-1]
    moment = datetime.datetime.fromisoformat(interval["to_moment"].replace("Z", "+00:00"))
    return (datetime.datetime.now(datetime.timezone.utc) - moment).total_seconds()
