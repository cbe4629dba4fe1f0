// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/tink-crypto/tink-go/v2/tink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	dgmv1alpha1 "github.com/acgs/dgm-operator/api/v1alpha1"
	"github.com/acgs/dgm-operator/controllers"
	"github.com/acgs/dgm-operator/internal/analysis"
	"github.com/acgs/dgm-operator/internal/analysis/prometheus"
	"github.com/acgs/dgm-operator/internal/keyset"
	"github.com/acgs/dgm-operator/internal/monitoring"
	"github.com/acgs/dgm-operator/internal/pgstore"
	"github.com/acgs/dgm-operator/internal/tenant"
)

// readinessTimeout bounds the database's answer to a readiness probe.
const readinessTimeout = 2 * time.Second

// configurationWorkers bounds the connections that settings take: there are few.
const configurationWorkers = 2

type runOptions struct {
	database        databaseFlags
	analytics       analyticsFlags
	clusterName     string
	adoptCluster    bool
	leaderElect     bool
	namespace       string
	metricsAddress  string
	metricsSecure   bool
	probeAddress    string
	pprofAddress    string
	keysetSecret    string
	metricSources   string
	serviceAccount  string
	tenantRole      string
	resyncInterval  time.Duration
	workers         int
	batchDelay      time.Duration
	leaseDuration   time.Duration
	developmentLogs bool
}

func newRunCommand() *cobra.Command {
	var o runOptions
	command := &cobra.Command{
		Use: "run", Short: "Run the operator", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return run(command.Context(), o) },
	}
	flags := command.Flags()
	o.database.bind(flags)
	o.analytics.bind(flags)
	flags.StringVar(&o.clusterName, "cluster-name", "", "this cluster's name in the database (required); bound there to the cluster at the first start")
	flags.BoolVar(&o.adoptCluster, "adopt-cluster", false, "let this cluster take over a name that another cluster is bound to: a rebuilt cluster")
	flags.BoolVar(&o.leaderElect, "leader-elect", true, "let one replica of several act")
	flags.StringVar(&o.namespace, "leader-election-namespace", envOr("POD_NAMESPACE", "dgm-system"), "the operator's own namespace: its Lease and what it keeps are there")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", ":8443", "where metrics are served; 0 for nowhere")
	flags.BoolVar(&o.metricsSecure, "metrics-secure", true, "serve metrics by HTTPS, to those whom the API server lets")
	flags.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081", "where /healthz and /readyz are served")
	flags.StringVar(&o.pprofAddress, "pprof-bind-address", "0", "where Go profiles are served, without asking who reads them, like 127.0.0.1:6060; 0 for nowhere")
	flags.StringVar(&o.metricSources, "metric-sources-file", "", "file that names the Prometheus servers which improvements may ask; read anew when it changes")
	bindKeysetSecret(flags, &o.keysetSecret)
	flags.StringVar(&o.serviceAccount, "service-account", "dgm-system:dgm-operator", "the operator's own ServiceAccount, as namespace:name, for messages")
	flags.StringVar(&o.tenantRole, "tenant-role", "dgm-tenant", "ClusterRole that opts a namespace in, for messages")
	flags.DurationVar(&o.resyncInterval, "resync-interval", time.Hour, "how often every object is compared with its rows, to mend hand edits of rows")
	flags.IntVar(&o.workers, "workers", 64, "objects of a kind that are reconciled at a time")
	flags.DurationVar(&o.leaseDuration, "lease-duration", 15*time.Second, "how long a leader that is gone is waited for")
	flags.DurationVar(&o.batchDelay, "batch-delay", 2*time.Millisecond, "how long a row waits for others to be written with")
	flags.BoolVar(&o.developmentLogs, "development-logs", false, "log for people instead of as JSON")
	if err := command.MarkFlagRequired("cluster-name"); err != nil {
		panic(err)
	}
	return command
}

func run(ctx context.Context, o runOptions) error {
	ctrl.SetLogger(zap.New(zap.UseDevMode(o.developmentLogs)))
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	config.QPS = -1 // the API server's priority and fairness rations better
	mgr, err := newManager(config, o)
	if err != nil {
		return err
	}
	store, err := newStore(ctx, mgr, o)
	if err != nil {
		return err
	}
	if err := addControllers(mgr, store, config, o); err != nil {
		return err
	}
	if err := addProbes(mgr, store); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

func newManager(config *rest.Config, o runOptions) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(dgmv1alpha1.AddToScheme(scheme))
	serving := metricsserver.Options{BindAddress: o.metricsAddress}
	if o.metricsSecure {
		serving.SecureServing, serving.FilterProvider = true, filters.WithAuthenticationAndAuthorization
	}
	renew := o.leaseDuration * 2 / 3
	retry := o.leaseDuration / 7
	return ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       serving,
		HealthProbeBindAddress:        o.probeAddress,
		PprofBindAddress:              o.pprofAddress,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "dgm-operator",
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &o.leaseDuration,
		RenewDeadline:                 &renew,
		RetryPeriod:                   &retry,
		Cache:                         cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: uncached()}},
	})
}

// uncached are the kinds that are read rarely and must not be watched.
func uncached() []client.Object {
	return []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}, &corev1.Namespace{}}
}

func newStore(ctx context.Context, mgr manager.Manager, o runOptions) (*pgstore.Store, error) {
	clusterUID, err := clusterUID(ctx, mgr.GetAPIReader())
	if err != nil {
		return nil, err
	}
	keys, err := keysetName(o.keysetSecret)
	if err != nil {
		return nil, err
	}
	return pgstore.New(pgstore.Config{
		URL:          o.database.url,
		MigrationURL: o.database.migrationURL,
		AnalyticsURL: o.analytics.url, AnalyticsMaxLag: o.analytics.maxLag,
		ClusterName:  o.clusterName,
		ClusterUID:   clusterUID,
		AdoptCluster: o.adoptCluster,
		Holder:       envOr("POD_NAME", hostname()),
		BatchDelay:   o.batchDelay,
		Log:          ctrl.Log.WithName("store"),
		AEAD: func(ctx context.Context) (tink.AEAD, string, error) {
			return keyset.Load(ctx, mgr.GetAPIReader(), mgr.GetClient(), keys)
		},
	}), nil
}

// clusterUID identifies the cluster: the UID of its namespace kube-system.
func clusterUID(ctx context.Context, reader client.Reader) (string, error) {
	var namespace corev1.Namespace
	if err := reader.Get(ctx, client.ObjectKey{Name: "kube-system"}, &namespace); err != nil {
		return "", fmt.Errorf("read the cluster's identity: %w", err)
	}
	return string(namespace.UID), nil
}

func addControllers(mgr manager.Manager, store *pgstore.Store, config *rest.Config, o runOptions) error {
	accounts, err := tenant.NewAccounts(config, mgr.GetRESTMapper())
	if err != nil {
		return err
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	guard, err := controllers.NewAdmissionGuard(mgr.GetAPIReader(), clock.RealClock{})
	if err != nil {
		return err
	}
	approvals, err := controllers.NewApprovalGuard(mgr.GetAPIReader(), clock.RealClock{})
	if err != nil {
		return err
	}
	monitor, err := monitoring.New(store, metrics.Registry, ctrl.Log.WithName("monitoring"))
	if err != nil {
		return err
	}
	outbox := &controllers.Outbox{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Namespace: o.namespace}
	servers, err := prometheus.Open(o.metricSources, ctrl.Log.WithName("metric-sources"), clock.RealClock{})
	if err != nil {
		return err
	}
	answers := analysis.NewAnswers(clock.RealClock{})
	if err := metrics.Registry.Register(&monitoring.Sources{Answers: answers}); err != nil {
		return err
	}
	improvements := &controllers.ImprovementWorkspaceReconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(),
		Events:        &controllers.EventWriter{Client: mgr.GetClient(), Instance: envOr("POD_NAME", hostname()), Clock: clock.RealClock{}},
		MetricServers: servers, Answers: answers,
		Accounts: accounts, Pods: clients.CoreV1(), Store: store, Admission: guard, Approvals: approvals, Outbox: outbox,
		ClusterName: o.clusterName, TenantRole: o.tenantRole, Operator: o.serviceAccount,
		Workers: o.workers, Clock: clock.RealClock{},
	}
	policies := &controllers.BanditPolicyReconciler{
		Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder("dgm-operator"),
		Store: store, ClusterName: o.clusterName, Workers: o.workers,
	}
	keys, err := keysetName(o.keysetSecret)
	if err != nil {
		return err
	}
	configurations := &controllers.SystemConfigurationReconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Recorder: mgr.GetEventRecorder("dgm-operator"),
		Store: store, Namespace: o.namespace, Keyset: keys, Operator: o.serviceAccount, Workers: min(o.workers, configurationWorkers),
	}
	resync := &controllers.Resync{
		Client: mgr.GetClient(), Store: store, Outbox: outbox, Interval: o.resyncInterval,
		Improvements: improvements.Enqueue, Policies: policies.Enqueue, Configurations: configurations.Enqueue,
		SnapshotLost: improvements.SnapshotLost, RecordsLost: improvements.RecordsLost, Replaced: improvements.Replaced, Sweep: improvements.SweepSandboxes, Log: ctrl.Log.WithName("resync"),
	}
	return errors.Join(
		improvements.SetupWithManager(mgr), policies.SetupWithManager(mgr), configurations.SetupWithManager(mgr),
		mgr.Add(resync), mgr.Add(manager.RunnableFunc(store.Lead)), mgr.Add(monitor),
	)
}

// addProbes: alive means that the process serves; ready means that the leader
// can write the database, and that any other replica could.
func addProbes(mgr manager.Manager, store *pgstore.Store) error {
	ready := func(request *http.Request) error {
		select {
		case <-mgr.Elected():
			return store.Ready()
		default:
			ctx, cancel := context.WithTimeout(request.Context(), readinessTimeout)
			defer cancel()
			return store.Ping(ctx)
		}
	}
	return errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("database", ready))
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}
