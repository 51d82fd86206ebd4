package main

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	amqp "github.com/rabbitmq/amqp091-go"
)

// natsTimeout is the timeout that the API of NATS wants for each request.
const natsTimeout = 10 * time.Second

func messageClients() map[string]func() (client, error) {
	return map[string]func() (client, error){
		"nats.go": func() (client, error) {
			var conn *nats.Conn
			return func(_ context.Context, operation, number string) (int, error) {
				if conn == nil {
					var err error
					if conn, err = nats.Connect("nats://" + server + ":4222"); err != nil {
						return 0, err
					}
				}
				m, err := conn.Request(operation+"."+number, []byte("x"), natsTimeout)
				if err != nil {
					return 0, err
				}
				return len(m.Data), nil
			}, nil
		},
		"amqp091-go": func() (client, error) {
			a := &amqpClient{}
			return a.do, nil
		},
	}
}

// amqpClient opens a new connection after an error: the library does not.
type amqpClient struct {
	conn    *amqp.Connection
	channel *amqp.Channel
}

func (a *amqpClient) do(ctx context.Context, operation, number string) (size int, err error) {
	if a.conn == nil {
		if a.conn, err = amqp.Dial("amqp://guest:guest@" + server + ":5672/"); err != nil {
			return 0, err
		}
		if a.channel, err = a.conn.Channel(); err != nil {
			return 0, err
		}
	}
	defer func() {
		if err != nil {
			_ = a.conn.Close()
			a.conn = nil
		}
	}()
	queue, err := a.channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return 0, err
	}
	if operation == request {
		return 1, a.channel.PublishWithContext(ctx, "", queue.Name, false, false, amqp.Publishing{Body: []byte("x")})
	}
	deliveries, err := a.channel.Consume(queue.Name, "", true, true, false, false, nil)
	if err != nil {
		return 0, err
	}
	if _, ok := <-deliveries; !ok {
		return 0, errors.New("deliveries ended")
	}
	return 1, nil
}
