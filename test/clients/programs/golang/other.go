package main

import (
	"context"
	"errors"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/redis/go-redis/v9"
	etcd "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func otherClients() map[string]func() (client, error) {
	return map[string]func() (client, error){
		"go-redis": func() (client, error) {
			r := redis.NewClient(&redis.Options{Addr: server + ":6379"})
			return func(ctx context.Context, operation, number string) (int, error) {
				if operation == slow {
					_, err := r.BLPop(ctx, 0, "slow"+number).Result()
					return 1, err
				}
				return 1, r.Set(ctx, "k", "v", 0).Err()
			}, nil
		},
		"gomemcache": func() (client, error) {
			m := memcache.New(server + ":11211")
			return func(context.Context, string, string) (int, error) {
				return 1, m.Set(&memcache.Item{Key: "k", Value: []byte("v")})
			}, nil
		},
		"etcd-client": func() (client, error) {
			e, err := etcd.New(etcd.Config{Endpoints: []string{server + ":2379"}, Logger: zap.NewNop()})
			return func(ctx context.Context, operation, number string) (int, error) {
				if operation == slow {
					return watch(ctx, e, "slow"+number)
				}
				_, err := e.Put(ctx, "k", "v")
				return 1, err
			}, err
		},
	}
}

// watch waits for a change of a key.
func watch(ctx context.Context, e *etcd.Client, key string) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for response := range e.Watch(ctx, key) {
		if err := response.Err(); err != nil {
			return 0, err
		}
		if len(response.Events) > 0 {
			return 1, nil
		}
	}
	return 0, errors.New("watch ended")
}
