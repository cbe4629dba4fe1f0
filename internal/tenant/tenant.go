// SPDX-License-Identifier: Apache-2.0

// Package tenant reads and changes users' objects as the ServiceAccount that
// the user named, never as the operator (P8).
package tenant

import (
	"context"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// maxClients bounds the impersonating clients that are kept.
const maxClients = 1024

// maxPods bounds the pods of a workload that are looked at.
const maxPods = 500

// requestTimeout bounds each request that is made as an account.
const requestTimeout = 30 * time.Second

// Ref names an object in the account's namespace.
type Ref struct {
	GVK  schema.GroupVersionKind
	Name string
}

// Accounts gives access to users' objects as their ServiceAccounts.
type Accounts struct {
	config  *rest.Config
	mapper  meta.RESTMapper
	reviews kubernetes.Interface
	clients *lru.Cache[types.NamespacedName, dynamic.Interface]
}

// NewAccounts makes Accounts that impersonate with the rights of config.
func NewAccounts(config *rest.Config, mapper meta.RESTMapper) (*Accounts, error) {
	reviews, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client for access reviews: %w", err)
	}
	clients, err := lru.New[types.NamespacedName, dynamic.Interface](maxClients)
	if err != nil {
		return nil, err
	}
	return &Accounts{config: config, mapper: mapper, reviews: reviews, clients: clients}, nil
}

// OptedIn reports whether the namespace lets the operator act as the account:
// whether a RoleBinding there binds the tenant role to the operator.
func (a *Accounts) OptedIn(ctx context.Context, namespace, account string) (bool, error) {
	for _, attributes := range []authorizationv1.ResourceAttributes{
		{Group: "authentication.k8s.io", Resource: "serviceaccounts", Verb: "impersonate:serviceaccount"},
		{Group: "", Resource: "serviceaccounts", Verb: "impersonate"},
	} {
		attributes.Namespace, attributes.Name = namespace, account
		review := &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &attributes},
		}
		answer, err := a.reviews.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("review the right to act as ServiceAccount %s/%s: %w", namespace, account, err)
		}
		if answer.Status.Allowed {
			return true, nil
		}
	}
	return false, nil
}

// Account reads and changes the objects of one namespace as one ServiceAccount.
type Account struct {
	namespace string
	client    dynamic.Interface
	mapper    meta.RESTMapper
}

// For is the account of that name in the namespace. Whether it exists and what
// it may do shows in its requests.
func (a *Accounts) For(namespace, name string) (*Account, error) {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	client, ok := a.clients.Get(key)
	if !ok {
		config := rest.CopyConfig(a.config)
		config.Impersonate = rest.ImpersonationConfig{UserName: fmt.Sprintf("system:serviceaccount:%s:%s", namespace, name)}
		config.Timeout = requestTimeout
		var err error
		if client, err = dynamic.NewForConfig(config); err != nil {
			return nil, fmt.Errorf("make a client that acts as ServiceAccount %s: %w", key, err)
		}
		a.clients.Add(key, client)
	}
	return &Account{namespace: namespace, client: client, mapper: a.mapper}, nil
}

// Get reads an object, uncached. Errors are those of the API server;
// meta.IsNoMatchError tells that its kind does not exist.
func (a *Account) Get(ctx context.Context, ref Ref) (*unstructured.Unstructured, error) {
	resource, err := a.resource(ref)
	if err != nil {
		return nil, err
	}
	return resource.Get(ctx, ref.Name, metav1.GetOptions{})
}

// Pods are those that a selector chooses, at most maxPods of them.
func (a *Account) Pods(ctx context.Context, selector labels.Selector) ([]corev1.Pod, error) {
	resource := a.client.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(a.namespace)
	list, err := resource.List(ctx, metav1.ListOptions{LabelSelector: selector.String(), Limit: maxPods})
	if err != nil {
		return nil, err
	}
	pods := make([]corev1.Pod, len(list.Items))
	for i := range list.Items {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &pods[i]); err != nil {
			return nil, fmt.Errorf("pod %s: %w", list.Items[i].GetName(), err)
		}
	}
	return pods, nil
}

// Patch patches an object with a field manager and returns it as it is then;
// with dryRun as it would be.
func (a *Account) Patch(ctx context.Context, ref Ref, patchType types.PatchType, patch []byte, manager string, dryRun bool) (*unstructured.Unstructured, error) {
	resource, err := a.resource(ref)
	if err != nil {
		return nil, err
	}
	options := metav1.PatchOptions{FieldManager: manager, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return resource.Patch(ctx, ref.Name, patchType, patch, options)
}

// NotNamespacedError says that objects of a kind live outside namespaces.
type NotNamespacedError struct{ Kind schema.GroupVersionKind }

func (e *NotNamespacedError) Error() string {
	return fmt.Sprintf("%s is not a namespaced kind: an improvement changes objects of its own namespace only", e.Kind.Kind)
}

func (a *Account) resource(ref Ref) (dynamic.ResourceInterface, error) {
	mapping, err := a.mapper.RESTMapping(ref.GVK.GroupKind(), ref.GVK.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return nil, &NotNamespacedError{Kind: ref.GVK}
	}
	return a.client.Resource(mapping.Resource).Namespace(a.namespace), nil
}
