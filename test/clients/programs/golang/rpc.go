package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func rpcClients() map[string]func() (client, error) {
	return map[string]func() (client, error){
		"grpc-go": func() (client, error) {
			conn, err := grpc.NewClient(server+":50051", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{})))
			return func(ctx context.Context, operation, number string) (int, error) {
				in, out := []byte(number), []byte(nil)
				if operation == half {
					return stream(ctx, conn, in)
				}
				err := conn.Invoke(ctx, "/test.Test/"+operation, &in, &out)
				return 1, err
			}, err
		},
	}
}

// stream reads a stream of answers to its end.
func stream(ctx context.Context, conn *grpc.ClientConn, in []byte) (n int, err error) {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/test.Test/"+half)
	if err != nil {
		return 0, err
	}
	if err := s.SendMsg(&in); err != nil {
		return 0, err
	}
	if err := s.CloseSend(); err != nil {
		return 0, err
	}
	for ; ; n++ {
		var out []byte
		if err := s.RecvMsg(&out); err != nil {
			if err.Error() == "EOF" {
				return n, nil
			}
			return n, err
		}
	}
}

// rawCodec sends and receives bytes without protobuf.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte{}, data...)
	return nil
}
func (rawCodec) Name() string { return "raw" }
