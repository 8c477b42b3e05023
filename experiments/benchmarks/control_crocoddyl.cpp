// Solves a problem by FDDP of crocoddyl, in a box by BoxFDDP. CasADi writes what the problem is, as C functions
// of that library's signature; the outputs are dense, by columns, as Eigen's matrices are.

#include <cmath>
#include <memory>
#include <vector>

#include <crocoddyl/core/action-base.hpp>
#include <crocoddyl/core/optctrl/shooting.hpp>
#include <crocoddyl/core/solvers/box-fddp.hpp>
#include <crocoddyl/core/solvers/fddp.hpp>
#include <crocoddyl/core/states/euclidean.hpp>

extern "C" {
typedef int Written(const double** arguments, double** results, long long int*, double*, int);
Written running, running_derivatives, terminal, terminal_derivatives;
}

namespace {

typedef Eigen::Ref<const Eigen::VectorXd> Vector;
typedef std::shared_ptr<crocoddyl::ActionDataAbstract> Data;

class Action : public crocoddyl::ActionModelAbstract {
 public:
  CROCODDYL_BASE_DERIVED_CAST(crocoddyl::ActionModelBase, Action)

  Action(std::size_t n, std::size_t m, double t)
      : crocoddyl::ActionModelAbstract(std::make_shared<crocoddyl::StateVector>(n), m), t_(t) {}

  void calc(const Data& data, const Vector& x, const Vector& u) override {
    const double* arguments[] = {&t_, x.data(), u.data()};
    double* results[] = {data->xnext.data(), &data->cost};
    running(arguments, results, nullptr, nullptr, 0);
  }

  void calc(const Data& data, const Vector& x) override {
    const double* arguments[] = {x.data()};
    double* results[] = {&data->cost};
    terminal(arguments, results, nullptr, nullptr, 0);
    data->xnext = x;
  }

  void calcDiff(const Data& data, const Vector& x, const Vector& u) override {
    const double* arguments[] = {&t_, x.data(), u.data()};
    double* results[] = {data->Fx.data(),  data->Fu.data(),  data->Lx.data(), data->Lu.data(),
                         data->Lxx.data(), data->Lxu.data(), data->Luu.data()};
    running_derivatives(arguments, results, nullptr, nullptr, 0);
  }

  void calcDiff(const Data& data, const Vector& x) override {
    const double* arguments[] = {x.data()};
    double* results[] = {data->Lx.data(), data->Lxx.data()};
    terminal_derivatives(arguments, results, nullptr, nullptr, 0);
  }

 private:
  double t_;
};

std::shared_ptr<crocoddyl::ShootingProblem> problem;

}  // namespace

extern "C" {

void state(int n, int m, int horizon, const double* x0, const double* low, const double* high) {
  std::vector<std::shared_ptr<crocoddyl::ActionModelAbstract>> models;
  for (int t = 0; t <= horizon; ++t) {
    models.push_back(std::make_shared<Action>(n, m, t));
    models.back()->set_u_lb(Eigen::Map<const Eigen::VectorXd>(low, m));
    models.back()->set_u_ub(Eigen::Map<const Eigen::VectorXd>(high, m));
  }
  const auto last = models.back();
  models.pop_back();
  problem = std::make_shared<crocoddyl::ShootingProblem>(Eigen::Map<const Eigen::VectorXd>(x0, n), models, last);
  problem->set_nthreads(1);
}

// Returns the iterations; the controls, (T, m), are those to start from.
int solve(const double* controls, int bounded, double tolerance, int most, double* cost) {
  std::vector<Eigen::VectorXd> us;
  const std::size_t m = problem->get_runningModels()[0]->get_nu();
  for (std::size_t t = 0; t < problem->get_T(); ++t) us.push_back(Eigen::Map<const Eigen::VectorXd>(controls + t * m, m));
  std::unique_ptr<crocoddyl::SolverFDDP> method(bounded ? new crocoddyl::SolverBoxFDDP(problem)
                                                        : new crocoddyl::SolverFDDP(problem));
  method->set_th_stop(tolerance);
  method->solve(problem->rollout_us(us), us, most, true);
  *cost = method->get_cost();
  return static_cast<int>(method->get_iter()) + 1;
}
}
