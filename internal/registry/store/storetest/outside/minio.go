package outside

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
)

// MinIO is a MinIO server with one bucket.
type MinIO struct {
	Endpoint       string // URL; the bucket goes into the path
	Bucket         string
	User, Password string // access key and secret
	prefixes       *atomic.Int64
}

// NewMinIO makes a server and starts it.
func NewMinIO(t testing.TB) MinIO {
	t.Helper()
	program, err := exec.LookPath("minio")
	if err != nil {
		// tools/run-tests puts it on PATH.
		if program, err = built("minio"); err != nil {
			skip(t, "minio")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	m := MinIO{Endpoint: "http://" + address, Bucket: "content", User: "tester", Password: "secret-of-the-test", prefixes: new(atomic.Int64)}
	cmd := exec.Command(program, "server", "--address", address, t.TempDir())
	cmd.Env = []string{"HOME=" + t.TempDir(), "MINIO_ROOT_USER=" + m.User, "MINIO_ROOT_PASSWORD=" + m.Password, "MINIO_BROWSER=off", "MINIO_UPDATE=off"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	client := awss3.New(awss3.Options{
		Region: "us-east-1", BaseEndpoint: &m.Endpoint, UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: m.User, SecretAccessKey: m.Password}, nil
		}),
	})
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := client.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: &m.Bucket})
		if err == nil {
			return m
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("MinIO does not start: %v\n%s", err, b)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// NewPrefix is a part of the bucket that nobody has used.
func (m MinIO) NewPrefix() string {
	return fmt.Sprintf("test %d/", m.prefixes.Add(1)) // the space has to be escaped
}

// built finds a program that tools/prepare-tests has built.
func built(name string) (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		program := filepath.Join(dir, "bin", "peers", name)
		if _, err := os.Stat(program); err == nil {
			return program, nil
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			break // the whole module was looked at
		}
		dir = filepath.Dir(dir)
	}
	return "", errors.Join(err, fs.ErrNotExist)
}
