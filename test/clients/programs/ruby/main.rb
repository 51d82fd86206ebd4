# Runs the Ruby client that the first argument names. See programs/golang/main.go. After an
# error the next operation opens a new connection.

$stdout.sync = true
SERVER = ENV['SERVER']

def statement(dialect, operation, number)
  ENV["#{dialect}_#{operation.upcase}"].gsub('NUMBER', number)
end

connect, run = {
  'pg' => lambda {
    require 'pg'
    [-> { PG.connect(host: SERVER, dbname: 'app', user: 'app', password: 'app') },
     ->(db, operation, number) { db.exec(statement('PG', operation, number)).ntuples }]
  },
  'mysql2' => lambda {
    require 'mysql2'
    [-> { Mysql2::Client.new(host: SERVER, username: 'app', password: 'app', database: 'app') },
     ->(db, operation, number) { db.query(statement('MY', operation, number)).to_a.length }]
  },
  'redis' => lambda {
    require 'redis'
    [-> { Redis.new(host: SERVER) },
     lambda { |redis, operation, number|
       operation == 'slow' ? redis.blpop("slow#{number}") : redis.set('k', 'v')
       1
     }]
  },
  'Net::HTTP' => lambda {
    require 'net/http'
    [-> { Net::HTTP.start(SERVER, 80) },
     ->(http, operation, number) { http.get("/#{operation}?number=#{number}").body.bytesize }]
  }
}.fetch(ARGV[0]).call

conn = nil
while (line = $stdin.gets)
  operation, number = line.split
  begin
    conn ||= connect.call
    puts "ok #{run.call(conn, operation, number)}"
  rescue StandardError => e
    conn = nil
    puts "error #{e.class}: #{e.message.split.join(' ')[0, 300]}"
  end
end
