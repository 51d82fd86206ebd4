<?php
// Runs the PHP client that the first argument names. See programs/golang/main.go. After an
// error the next operation opens a new connection.

mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
set_error_handler(function ($level, $text) { throw new ErrorException($text); });
$server = getenv('SERVER');

function statement($dialect, $operation, $number) {
    return str_replace('NUMBER', $number, getenv($dialect . '_' . strtoupper($operation)));
}

$clients = [
    'pdo-pgsql' => [
        fn() => new PDO("pgsql:host=$server;dbname=app", 'app', 'app', [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]),
        fn($db, $operation, $number) => count($db->query(statement('PG', $operation, $number))->fetchAll()),
    ],
    'mysqli' => [
        fn() => new mysqli($server, 'app', 'app', 'app'),
        fn($db, $operation, $number) => count($db->query(statement('MY', $operation, $number))->fetch_all()),
    ],
    'phpredis' => [
        function () use ($server) {
            $redis = new Redis();
            $redis->connect($server);
            return $redis;
        },
        function ($redis, $operation, $number) {
            $operation == 'slow' ? $redis->blPop("slow$number", 0) : $redis->set('k', 'v');
            return 1;
        },
    ],
];

[$connect, $run] = $clients[$argv[1]];
$conn = null;
while (($line = fgets(STDIN)) !== false) {
    [$operation, $number] = explode(' ', trim($line));
    try {
        $conn = $conn ?? $connect();
        $size = $run($conn, $operation, $number);
        echo "ok $size\n";
    } catch (Throwable $e) {
        $conn = null;
        echo 'error ', get_class($e), ': ', substr(preg_replace('/\s+/', ' ', $e->getMessage()), 0, 300), "\n";
    }
}
