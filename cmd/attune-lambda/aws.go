package main

import (
	"bytes"
	"cmp"
	"context"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// credentialVariables hold what must never be seen in an output.
var credentialVariables = []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"}

func credentialsIn(env map[string]string) []string {
	var values []string
	for _, name := range credentialVariables {
		if env[name] != "" {
			values = append(values, env[name])
		}
	}
	return values
}

// awsEnv makes clients from the variables that every AWS SDK knows; the SDK's own loader would also look into files and at the
// instance, which functions do not have, and links twice as much.
type awsEnv map[string]string

func (e awsEnv) region() string { return cmp.Or(e["AWS_REGION"], e["AWS_DEFAULT_REGION"]) }

// endpoint is another address than AWS's own, for one service or all.
func (e awsEnv) endpoint(service string) *string {
	if address := cmp.Or(e["AWS_ENDPOINT_URL_"+service], e["AWS_ENDPOINT_URL"]); address != "" {
		return &address
	}
	return nil
}

// credentials are Lambda's own in the environment, else those that a container's platform serves.
func (e awsEnv) credentials() aws.CredentialsProvider {
	const containerHost = "http://169.254.170.2" // of ECS, for relative addresses
	address := e["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
	if relative := e["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]; address == "" && relative != "" {
		address = containerHost + relative
	}
	if e["AWS_ACCESS_KEY_ID"] == "" && address != "" {
		return aws.NewCredentialsCache(endpointcreds.New(address, func(o *endpointcreds.Options) {
			o.AuthorizationToken = e["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
		}))
	}
	return credentials.NewStaticCredentialsProvider(e["AWS_ACCESS_KEY_ID"], e["AWS_SECRET_ACCESS_KEY"], e["AWS_SESSION_TOKEN"])
}

// bucket keeps results that are too large for a response.
type bucket struct {
	name, prefix string
	client       func() *s3.Client // made by the first who needs it
}

func newBucket(place string, env awsEnv) *bucket {
	name, prefix, _ := strings.Cut(place, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	return &bucket{name: name, prefix: prefix, client: sync.OnceValue(func() *s3.Client {
		endpoint := env.endpoint("S3")
		return s3.New(s3.Options{
			Region: env.region(), Credentials: env.credentials(), BaseEndpoint: endpoint, UsePathStyle: endpoint != nil,
			RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		})
	})}
}

// answerTime is kept back of the reserve when a document is written.
const answerTime = 300 * time.Millisecond

// put writes a document and gives its address.
func (b *bucket) put(ctx context.Context, d document) (string, error) {
	data, err := encode(d)
	if err != nil {
		return "", err
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-answerTime))
		defer cancel()
	}
	key := b.prefix + d.ID + ".json"
	_, err = b.client().PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.name, Key: &key, Body: bytes.NewReader(data), ContentType: aws.String("application/json"),
	})
	if err != nil {
		return "", err
	}
	return "s3://" + b.name + "/" + key, nil
}

func newDynamoDB(env awsEnv) *dynamodb.Client {
	return dynamodb.New(dynamodb.Options{Region: env.region(), Credentials: env.credentials(), BaseEndpoint: env.endpoint("DYNAMODB")})
}
